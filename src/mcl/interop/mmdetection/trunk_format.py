"""MMDetection 3: a .pth for ``init_cfg`` and a config that inherits Mask R-CNN R50-FPN 1x and uses it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mcl.errors import UserError
from mcl.interop.torchvision.resnet_shape import ResnetShape
from mcl.interop.writing.exported import Exported, TrunkSource, require_receiver, same_tensors
from mcl.nn.load_report import match

DEPTHS = {
    "resnet18": 18, "resnet34": 34, "resnet50": 50, "resnet101": 101, "resnet152": 152, "resnext50_32x4d": 50,
    "resnext101_32x8d": 101, "resnext101_64x4d": 101,
}  # fmt: skip
HEAD_CONVS = 4
#: the trunk's beginning of a name -> MMDetection's; ``{0, 1}`` of a block is its ``conv`` and ``bn``
PREFIXES = {
    "backbone.body.": "backbone.",
    "backbone.fpn.inner_blocks.": "neck.lateral_convs.",
    "backbone.fpn.layer_blocks.": "neck.fpn_convs.",
    "roi_heads.box_head.": "roi_head.bbox_head.shared_convs.",
}
BLOCK = {"0": "conv", "1": "bn"}
BLOCK_BACK = {theirs: ours for ours, theirs in BLOCK.items()}

CONFIG = """# Goes with {file} (mcl export). Needs MMDetection 3: python tools/train.py THIS_FILE
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'

checkpoint = {path!r}
# On several GPUs take dict(type='SyncBN', requires_grad=True), as the paper does: the names are the same.
norm_cfg = dict(type='BN', requires_grad=True)

model = dict(
    data_preprocessor=dict(mean={mean}, std={std}, bgr_to_rgb=True),
    backbone=dict(
        {backbone}
        frozen_stages=-1,
        norm_cfg=norm_cfg,
        norm_eval=False,
        style='pytorch',
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.')),{neck}{head})
"""
NECK = """
    neck=dict(
        in_channels={widths},
        out_channels={channels},
        norm_cfg=norm_cfg,
        init_cfg={init}),
    rpn_head=dict(in_channels={channels}, feat_channels={channels}),"""
NECK_INIT = "dict(type='Pretrained', checkpoint=checkpoint, prefix='neck.')"
NECK_FRESH = "dict(type='Xavier', layer='Conv2d', distribution='uniform')"
# The linear layers of the box head keep their own starting values: the first entry is MMDetection's, the second fills
# the convolutions. A 'Pretrained' for the whole model would leave all fresh layers without theirs.
HEAD = """
    roi_head=dict(
        bbox_roi_extractor=dict(
            roi_layer=dict(output_size={window}), out_channels={channels}),
        bbox_head=dict(
            type='Shared4Conv1FCBBoxHead',
            in_channels={channels},
            conv_out_channels={channels},
            roi_feat_size={window},
            norm_cfg=norm_cfg,
            init_cfg=[
                dict(type='Normal', std=0.01, override=dict(name='fc_cls')),
                dict(type='Normal', std=0.001, override=dict(name='fc_reg')),
                dict(type='Xavier', distribution='uniform', override=[dict(name='shared_fcs')]),{init}
            ]),
        mask_roi_extractor=dict(out_channels={channels}),
        mask_head=dict(in_channels={channels}, norm_cfg=norm_cfg))"""
HEAD_INIT = """
                dict(type='Pretrained', checkpoint=checkpoint, prefix='roi_head.bbox_head.'),"""


def config_name(out: Path) -> str:
    """Name of the config beside ``out`` (a Python file, as MMDetection's are)."""
    return f"{out.stem.replace('.', '_')}.py"


def write_mmdetection(source: TrunkSource, path: Path) -> Exported:
    """Write the .pth and its config; names and shapes are checked against MMDetection's documented ones.

    Raises:
        UserError: MMDetection has no such ResNet, or its box head cannot have this many convolutions.
        RunFailed: the file does not read back the same.
    """
    require_receiver(
        source, source.backbone in DEPTHS, "mmdetection", "ResNets of depth 18, 34, 50, 101 and 152"
    )
    if source.has_head and source.spec.head_convs != HEAD_CONVS:
        raise UserError(
            f"--to mmdetection: Shared4Conv1FCBBoxHead has {HEAD_CONVS} convolutions, this head {source.spec.head_convs}; "
            "give --parts backbone+pyramid"
        )
    shape = ResnetShape.of(source.body)
    tensors = {to_mmdetection(name): tensor for name, tensor in source.state.items()}
    wanted = rcnn_shapes(shape, source)
    _, report = match(wanted, tensors, tuple(tensors))
    report.require_complete("export", allow_partial=False)
    torch.save({"state_dict": tensors, "meta": {"author": "mcl"}}, path)
    same_tensors(
        source.state, from_state(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])
    )
    path.with_name(config_name(path)).write_text(config(source, shape, path.name), "utf-8")
    return Exported(
        report, {}, "names and shapes are those of MMDetection 3's documentation; every tensor read back bit for bit",
        (config_name(path),), [f"{config_name(path)} names the .pth by file name: run MMDetection in its folder, or edit it"],
    )  # fmt: skip


def config(source: TrunkSource, shape: ResnetShape, file: str) -> str:
    """Text of the config."""
    spec = source.spec
    backbone = f"depth={DEPTHS[source.backbone]},"
    if shape.groups > 1:
        backbone = f"type='ResNeXt', groups={shape.groups}, base_width={shape.width}, " + backbone
    sizes = {"widths": _widths(shape), "channels": spec.pyramid_channels, "window": spec.window}
    neck = NECK.format(init=NECK_INIT if source.has_pyramid else NECK_FRESH, **sizes)
    head = HEAD.format(init=HEAD_INIT if source.has_head else "", **sizes)
    mean, std = ([round(255 * value, 3) for value in values] for values in (spec.mean, spec.std))
    return CONFIG.format(file=file, path=file, mean=mean, std=std, backbone=backbone, neck=neck, head=head)


def to_mmdetection(name: str) -> str:
    """``backbone.fpn.inner_blocks.0.1.weight`` -> ``neck.lateral_convs.0.bn.weight``."""
    for ours, theirs in PREFIXES.items():
        if name.startswith(ours):
            rest = name.removeprefix(ours)
            return theirs + (rest if theirs == "backbone." else _exchange(rest, BLOCK))
    raise KeyError(name)


def from_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The trunk's tensors of an MMDetection checkpoint; others are left out."""
    found = {}
    for name, tensor in state.items():
        for ours, theirs in PREFIXES.items():
            if name.startswith(theirs):
                rest = name.removeprefix(theirs)
                found[ours + (rest if theirs == "backbone." else _exchange(rest, BLOCK_BACK))] = tensor
    return found


def rcnn_shapes(shape: ResnetShape, source: TrunkSource) -> dict[str, Tensor]:
    """Names and shapes of MMDetection's Mask R-CNN with FPN(norm_cfg=BN) and Shared4Conv1FCBBoxHead (80 classes)."""
    channels, window = source.spec.pyramid_channels, source.spec.window
    sizes = {f"backbone.{name}": tuple(tensor.shape) for name, tensor in _resnet_of_docs(shape).items()}
    for i, width in enumerate(_widths(shape)):
        sizes |= _module(f"neck.lateral_convs.{i}", channels, width, 1) | _module(
            f"neck.fpn_convs.{i}", channels, channels, 3
        )
    for i in range(HEAD_CONVS):
        sizes |= _module(f"roi_head.bbox_head.shared_convs.{i}", channels, channels, 3)
    linear = {
        "roi_head.bbox_head.shared_fcs.0": (1024, channels * window**2), "roi_head.bbox_head.fc_cls": (81, 1024),
        "roi_head.bbox_head.fc_reg": (320, 1024), "rpn_head.rpn_conv": (channels, channels, 3, 3),
        "rpn_head.rpn_cls": (3, channels, 1, 1), "rpn_head.rpn_reg": (12, channels, 1, 1),
        "roi_head.mask_head.conv_logits": (80, 256, 1, 1),
    }  # fmt: skip
    for name, size in linear.items():
        sizes |= {f"{name}.weight": size, f"{name}.bias": size[:1]}
    for i in range(4):
        sizes |= _module(f"roi_head.mask_head.convs.{i}", 256, channels if i == 0 else 256, 3)
    sizes |= {
        "roi_head.mask_head.upsample.weight": (256, 256, 2, 2),
        "roi_head.mask_head.upsample.bias": (256,),
    }
    return {name: torch.empty(size, device="meta") for name, size in sizes.items()}


def _resnet_of_docs(shape: ResnetShape) -> dict[str, Tensor]:
    # MMDetection's ResNet documents that it keeps torchvision's names (its base config loads torchvision://resnet50).
    from torchvision.models import ResNet
    from torchvision.models.resnet import BasicBlock, Bottleneck

    block = BasicBlock if shape.block == "basic" else Bottleneck
    with torch.device("meta"):
        network = ResNet(block, list(shape.counts), groups=shape.groups, width_per_group=shape.width)
    return {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("fc.")}


def _widths(shape: ResnetShape) -> list[int]:
    return [(64 if shape.block == "basic" else 256) * 2**stage for stage in range(4)]


def _module(name: str, outputs: int, inputs: int, kernel: int) -> dict[str, tuple[int, ...]]:
    norms = {f"{name}.bn.{leaf}": (outputs,) for leaf in ("weight", "bias", "running_mean", "running_var")}
    return {
        f"{name}.conv.weight": (outputs, inputs, kernel, kernel),
        **norms,
        f"{name}.bn.num_batches_tracked": (),
    }


def _exchange(rest: str, names: Mapping[str, str]) -> str:
    """``2.0.weight`` <-> ``2.conv.weight``: the second step."""
    index, step, *leaf = rest.split(".")
    return ".".join([index, names.get(step, step), *leaf])
