"""Detectron2's ViTDet: a .pkl under its names, and a lazy config that goes with it."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcl.interop.detectron2.pickle import as_array, write_pickle
from mcl.interop.detectron2.reading import AUTHOR
from mcl.interop.writing.exported import Exported, Unfit, compare
from mcl.interop.writing.source import TrunkSource, probe_images, probe_windows
from mcl.nn.load_report import match
from mcl.nn.parts import LEVELS
from mcl.nn.vit import PlainVit

STRIDE = 16  # of the map that its scale factors 4, 2, 1, 1/2 are for
EPSILON = 1e-6
CONFIG = '''# Goes with {name} (mcl export). In Detectron2: tools/lazyconfig_train_net.py --config-file THIS_FILE
from detectron2 import model_zoo

model = model_zoo.get_config("common/models/mask_rcnn_vitdet.py").model
train = model_zoo.get_config("common/train.py").train
train.init_checkpoint = "{name}"
net = model.backbone.net
net.patch_size, net.embed_dim, net.depth, net.num_heads = {patch}, {width}, {depth}, {heads}
net.pretrain_img_size, net.use_rel_pos = {size}, False
net.window_size, net.window_block_indexes = {window}, {blocks}
model.backbone.out_channels = {channels}
model.roi_heads.box_head.conv_dims, model.roi_heads.box_head.conv_norm = [{channels}] * {convs}, "LN"
model.roi_heads.mask_head.conv_norm = "LN"
model.input_format = "RGB"
model.pixel_mean, model.pixel_std = {mean}, {std}
'''


def companions(out: Path) -> tuple[str, ...]:
    """The lazy config beside ``out``."""
    return (f"{out.stem.replace('.', '_')}.py",)


def fit(source: TrunkSource) -> Exported:
    """Compare the trunk, without its class token, with the graph that Detectron2's ViTDet documents.

    Raises:
        Unfit: no plain transformer with patches of 16 px, or one with parts that Detectron2's has not.
    """
    twin = without_tokens(source)
    tensors = to_vitdet(source, _body(twin.trunk.backbone.body, source))
    ours, theirs = twin.maps, _Graph(tensors, twin).maps()
    shown = {name: ours[name] for name in theirs}
    _, report = match(tensors, tensors, tuple(tensors))
    by = "the graph that Detectron2's ViTDet documents, built from the file's tensors, without class token as there"
    gap = compare_loosely(source.maps, ours)
    note = f"ViTDet has no class token: without it the last map differs by {gap:.1%} of its largest value before fine-tuning"
    return Exported(report, compare(shown, theirs), by, notes=[note] if gap else [])


def write(source: TrunkSource, path: Path) -> Exported:
    """Write the .pkl and its config.

    Raises:
        Unfit: see ``fit``.
    """
    done, body, spec = fit(source), source.trunk.backbone.body, source.spec
    tensors = to_vitdet(source, _body(without_tokens(source).trunk.backbone.body, source))
    write_pickle(path, {"model": {n: as_array(t) for n, t in tensors.items()}, "__author__": AUTHOR, "matching_heuristics": True})
    mean, std = ([round(255 * value, 3) for value in values] for values in (spec.mean, spec.std))
    text = CONFIG.format(
        name=path.name, patch=body.stride, width=body.channels, depth=len(body.blocks), heads=body.blocks[0].attn.num_heads,
        size=spec.image_size, window=spec.attention_window, blocks=[i for i, whole in enumerate(body.blocks_global) if not whole],
        channels=spec.pyramid_channels, convs=spec.head_convs, mean=mean, std=std,
    )  # fmt: skip
    path.with_name(companions(path)[0]).write_text(text, "utf-8")
    return done


def without_tokens(source: TrunkSource) -> TrunkSource:
    """The same trunk, whose cells see no class token or registers.

    Raises:
        Unfit: see ``fit``.
    """
    body = source.trunk.backbone.body
    if not isinstance(body, PlainVit) or body.stride != STRIDE:
        raise Unfit(f"it has plain transformers with patches of {STRIDE} px only, not {source.backbone}")
    block = body.blocks[0]
    extra = (block.ls1, body.norm_pre, block.attn.q_norm, block.attn.norm, body.patch_embed.norm)
    if not all(isinstance(module, nn.Identity) for module in extra) or body.pos_embed is None:
        raise Unfit(f"{source.backbone} has layer scale or norms that its ViT has not")
    trunk = copy.deepcopy(source.trunk)
    body, first = trunk.backbone.body, source.trunk.backbone.body.pos_embed.shape[1] - body.grid[0] * body.grid[1]
    body.cls_token = body.reg_token = None
    body.no_embed_class, body.pos_embed = True, nn.Parameter(body.pos_embed[:, first:].detach())
    return TrunkSource(trunk.eval(), source.metadata, source.parts, source.origin, source.roi_size)


def _body(body: PlainVit, source: TrunkSource) -> dict[str, Tensor]:
    """Tensors of a network without tokens; positions with the place of a class token that Detectron2 skips."""
    state = {name: tensor.detach() for name, tensor in body.state_dict().items()}
    state["pos_embed"] = torch.cat([torch.zeros_like(state["pos_embed"][:, :1]), state["pos_embed"]], dim=1)
    return state


def to_vitdet(source: TrunkSource, body: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the exported parts under ViTDet's names."""
    found = {f"backbone.net.{name}": tensor for name, tensor in body.items()}
    for name, tensor in source.state.items():
        if renamed := vitdet_name(name, source.trunk):
            found[renamed] = tensor
    return found


def vitdet_name(name: str, trunk: nn.Module) -> str | None:
    """``backbone.fpn.inner_blocks.0.0.weight`` -> ``backbone.simfp_2.4.weight``; None: of the backbone.

    A level's layers are one sequence there: resampling, then the two convolutions, each with its norm.
    """
    if made := re.fullmatch(r"backbone\.fpn\.inner_blocks\.(\d)\.resample\.(.+)", name):
        return f"backbone.simfp_{int(made[1]) + 2}.{made[2]}"
    if conv := re.fullmatch(r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.([01])\.(\w+)", name):
        level, is_norm = int(conv[2]), "norm." if conv[3] == "1" else ""
        place = len(trunk.backbone.fpn.inner_blocks[level].resample) + (conv[1] == "layer")
        return f"backbone.simfp_{level + 2}.{place}.{is_norm}{conv[4]}"
    if head := re.fullmatch(r"roi_heads\.box_head\.(\d+)\.([01])\.(\w+)", name):
        return f"roi_heads.box_head.conv{int(head[1]) + 1}.{'norm.' if head[2] == '1' else ''}{head[3]}"
    return None


def compare_loosely(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """Largest difference of the backbone's map, relative to its largest value."""
    name = next(name for name in ours if name.startswith("c"))
    return float((ours[name] - theirs[name]).abs().max() / ours[name].abs().max())


class _Graph:
    """What Detectron2 computes with these tensors, written out (ViT, SimpleFeaturePyramid, box head)."""

    def __init__(self, tensors: Mapping[str, Tensor], source: TrunkSource) -> None:
        self.tensors, self.source, self.body = tensors, source, source.trunk.backbone.body

    @torch.no_grad()
    def maps(self) -> dict[str, Tensor]:
        """Maps as ``trunk_maps`` has them."""
        last = self._vit(probe_images(self.source.spec))
        found = {f"c{STRIDE.bit_length() - 1}": last}
        for level in self.source.levels:
            found[level] = self._level(LEVELS.index(level) + 2, last)
        if self.source.has_head:
            x = probe_windows(self.source)
            for number in range(self.source.spec.head_convs):
                x = F.relu(self._conv(x, f"roi_heads.box_head.conv{number + 1}", 1))
            found["head"] = x
        return found

    def _vit(self, images: Tensor) -> Tensor:
        t, net = self.tensors, "backbone.net."
        x = F.conv2d(images, t[net + "patch_embed.proj.weight"], t[net + "patch_embed.proj.bias"], stride=STRIDE)
        x = x.permute(0, 2, 3, 1)
        x = x + t[net + "pos_embed"][:, 1:].view(1, *x.shape[1:])
        heads, window = self.body.blocks[0].attn.num_heads, self.body.form.window
        for number, whole in enumerate(self.body.blocks_global):
            x = self._block(x, f"{net}blocks.{number}.", heads, 0 if whole else window)
        return x.permute(0, 3, 1, 2)

    def _block(self, x: Tensor, at: str, heads: int, window: int) -> Tensor:
        y, (_, height, width, _) = self._norm(x, at + "norm1"), x.shape
        side = window or max(height, width)
        y = F.pad(y, (0, 0, 0, -width % side, 0, -height % side)) if window else y
        attended = torch.empty_like(y)
        rows, columns = (side, side) if window else (height, width)
        for top in range(0, y.shape[1], rows):
            for left in range(0, y.shape[2], columns):
                part = y[:, top : top + rows, left : left + columns]
                attended[:, top : top + rows, left : left + columns] = self._attend(part, at + "attn.", heads)
        x = x + attended[:, :height, :width]
        y = F.gelu(self._linear(self._norm(x, at + "norm2"), at + "mlp.fc1"))
        return x + self._linear(y, at + "mlp.fc2")

    def _attend(self, part: Tensor, at: str, heads: int) -> Tensor:
        batch, height, width, channels = part.shape
        qkv = self._linear(part.reshape(batch, height * width, channels), at + "qkv")
        q, k, v = qkv.view(batch, height * width, 3, heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * (channels // heads) ** -0.5).softmax(dim=-1)
        return self._linear((weights @ v).transpose(1, 2).reshape(part.shape), at + "proj")

    def _level(self, number: int, x: Tensor) -> Tensor:
        at, t = f"backbone.simfp_{number}.", self.tensors
        if number == 2:
            x = F.conv_transpose2d(x, t[at + "0.weight"], t[at + "0.bias"], stride=2)
            x = F.gelu(self._norm(x.permute(0, 2, 3, 1), at + "1").permute(0, 3, 1, 2))
            x = F.conv_transpose2d(x, t[at + "3.weight"], t[at + "3.bias"], stride=2)
        elif number == 3:
            x = F.conv_transpose2d(x, t[at + "0.weight"], t[at + "0.bias"], stride=2)
        elif number == 5:
            x = F.max_pool2d(x, 2, 2)
        first = {2: 4, 3: 1, 4: 0, 5: 1}[number]
        return self._conv(self._conv(x, f"{at}{first}", 0), f"{at}{first + 1}", 1)

    def _conv(self, x: Tensor, at: str, padding: int) -> Tensor:
        x = F.conv2d(x, self.tensors[at + ".weight"], padding=padding)
        return self._norm(x.permute(0, 2, 3, 1), at + ".norm").permute(0, 3, 1, 2)

    def _linear(self, x: Tensor, at: str) -> Tensor:
        return F.linear(x, self.tensors[at + ".weight"], self.tensors[at + ".bias"])

    def _norm(self, x: Tensor, at: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.tensors[at + ".weight"], self.tensors[at + ".bias"], EPSILON)
