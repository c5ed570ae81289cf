"""Weights of other tools, read into the trunk's names. Nothing in a file is ever executed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mcl.errors import UserError, did_you_mean, printable
from mcl.interop.detectron2.names import from_detectron2
from mcl.interop.detectron2.reading import PixelInput, adapt_input, read_detectron2, to_rgb
from mcl.interop.mmdetection.names import from_mmdetection
from mcl.interop.reading.files import read_content, require_no_larger
from mcl.interop.reading.prefixes import find_resnet, unpack
from mcl.interop.reading.transformers import find_vit
from mcl.interop.timm.reading import read_folder
from mcl.interop.torchvision.names import from_torchvision
from mcl.nn.parts import BODY, PIECES, prefixes_of
from mcl.nn.stored import require_sound, what_is_there
from mcl.nn.trunk import IMAGENET_STD

AUTHORS = (
    (r"encoder_q\.0\.(.+)", BODY + r"\1"),
    (r"encoder_q\.1\.lateral_convs\.(\d)\.conv\.(\w+)", r"backbone.fpn.inner_blocks.\1.0.\2"),
    (r"encoder_q\.1\.lateral_convs\.(\d)\.bn\.(\w+)", r"backbone.fpn.inner_blocks.\1.1.\2"),
    (r"encoder_q\.1\.fpn_convs\.(\d)\.conv\.(\w+)", r"backbone.fpn.layer_blocks.\1.0.\2"),
    (r"encoder_q\.1\.fpn_convs\.(\d)\.bn\.(\w+)", r"backbone.fpn.layer_blocks.\1.1.\2"),
    (r"encoder_q\.2\.cls_convs\.(\d+)\.conv\.(\w+)", r"roi_heads.box_head.\1.0.\2"),
    (r"encoder_q\.2\.cls_convs\.(\d+)\.bn\.(\w+)", r"roi_heads.box_head.\1.1.\2"),
)


def read_foreign(source: Path | str, image_size: int = 224) -> tuple[str, dict[str, Tensor], list[str]]:
    """Read a file, a folder in timm's layout, or a timm name.

    Args:
        source: path, or e.g. ``resnet50.a1_in1k`` (downloaded by timm as usual).
        image_size: side that networks of a fixed input size are built for (timm names only).

    Returns:
        What it is; tensors under the trunk's names (a network that is not a ResNet has timm's names of the whole
        network after ``backbone.body.``: see ``interop.timm.names.to_features``); and notes for the user.

    Raises:
        UserError: neither a path nor a timm name, damaged, refused as unsafe, or without a network we know.
    """
    path = Path(source)
    kind = what_is_there(path)
    if kind == "folder":
        architecture, state = read_folder(path)
        return _checked(f"timm {architecture}", _under_body(_without_classifier(state)), [], path)
    if not kind:
        return _read_timm_name(str(source), image_size)
    if path.suffix == ".pkl":
        state, notes = read_detectron2(path)
        return _checked("Detectron2", state, notes, path)
    content = read_content(path)
    kind, state, notes = _recognise(*unpack(content), path)
    return kind, state, notes + _openmmlab_input(content, state)


def architecture_of(kind: str) -> str | None:
    """timm's name of the backbone, if ``read_foreign``'s description holds one."""
    found = re.match(r"(?:timm|torchvision) ([a-z0-9]\w*)", kind)
    return found[1] if found else None


def _recognise(
    state: dict[str, Tensor], container: str, path: Path
) -> tuple[str, dict[str, Tensor], list[str]]:
    plain = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if any(name.startswith("encoder_q.1.lateral_convs.") for name in plain):
        return _checked("MCL (the authors')", *_from_authors(plain), path)
    if any(name.startswith("neck.lateral_convs.") for name in plain):
        return _checked("MMDetection", from_mmdetection(plain), [], path)
    if any(re.match(r"(backbone\.bottom_up\.)?res2\.0\.conv1\.", name) for name in plain):
        named = {from_detectron2(name): tensor for name, tensor in plain.items()}
        named.pop(None, None)
        kind, named, _ = _checked("Detectron2", named, [], path)
        return kind, named, adapt_input(named, path)
    if any(name.startswith(BODY) for name in plain):
        kept = {name: tensor for name, tensor in plain.items() if name.startswith(prefixes_of(PIECES))}
        linear = [
            n
            for n in kept
            if re.match(r"roi_heads\.box_head\.(\d+)\.(weight|bias)$|roi_heads\.box_head\.fc", n)
        ]
        return _checked("torchvision detector", {n: t for n, t in kept.items() if n not in linear}, [], path)
    resnet = find_resnet(state, container)
    if resnet is not None:
        kind, body, notes = resnet
        return _checked(kind, _under_body(body), notes, path)
    vit = find_vit(plain, container)
    if vit is not None:
        kind, body, notes = vit
        return _checked(kind, _under_body(body), notes, path)
    other = from_torchvision(plain)
    if other is not None:
        return _checked(f"torchvision {other[0]}", _under_body(other[1]), [], path)
    return _checked("state dict of a timm network", _under_body(plain), [], path)


def _openmmlab_input(content: Any, state: dict[str, Tensor]) -> list[str]:
    """OpenMMLab's checkpoints hold their config as text; its caffe-style backbones want BGR pixels of std 1."""
    meta = content.get("meta") if isinstance(content, Mapping) else None
    config = str(meta.get("cfg", "")) if isinstance(meta, Mapping) else ""
    if not re.search(r"to_rgb'?\s*[=:]\s*False", config):
        return []
    told = {name: numbers for name in ("mean", "std") if len(numbers := _numbers_of(name, config)) == 3}
    plain = {"std": tuple(255 * value for value in IMAGENET_STD[::-1])}
    return to_rgb(state, PixelInput("BGR", **{**plain, **told}, stride_in_1x1=False))


def _numbers_of(name: str, config: str) -> tuple[float, ...]:
    """``std=[1.0, 1.0, 1.0]`` of a config's text; () if it is not there or holds a zero."""
    found = re.search(rf"{name}'?\s*[=:]\s*[\[(]([^\])]{{1,100}})", config)
    numbers = tuple(map(float, re.findall(r"\d+(?:\.\d*)?", found[1]))) if found else ()
    return numbers if all(numbers) else ()


def _checked(
    kind: str, state: Mapping[str, Tensor], notes: list[str], path: Path
) -> tuple[str, dict[str, Tensor], list[str]]:
    if len(state) < 4:
        raise UserError(f"{path}: no weights of a backbone in it ({len(state)} tensors)")
    if what_is_there(path) == "file":
        require_no_larger(state, path)
    require_sound(state, str(path))
    return kind, _with_counters(state), notes


def _with_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add ``num_batches_tracked`` beside running statistics where the file has none (frozen or old BatchNorm)."""
    counters = {
        counter: torch.zeros((), dtype=torch.long)
        for name in state
        if name.endswith(".running_var")
        and (counter := name.removesuffix("running_var") + "num_batches_tracked") not in state
    }
    return {**state, **counters}


def _from_authors(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    named: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for pattern, ours in AUTHORS:
            if re.fullmatch(pattern, name):
                named[re.sub(pattern, ours, name)] = tensor
    return named, [
        f"{len(state) - len(named)} tensors are left out (target network, projector, predictors, queue)"
    ]


def _read_timm_name(name: str, image_size: int) -> tuple[str, dict[str, Tensor], list[str]]:
    import timm

    from mcl.nn.backbone import build_backbone

    base, called = name.partition(".")[0], printable(name[:200])
    if not timm.is_model(base):
        raise UserError(f"{called}: neither a file nor a timm model{did_you_mean(base, timm.list_models())}")
    if not timm.is_model_pretrained(name):
        known = timm.list_pretrained(f"{base}.*")
        raise UserError(f"{called}: timm has no weights of that name; it has: {', '.join(known) or 'none'}")
    try:
        body = build_backbone(name, image_size, pretrained=True)
    except UserError:
        raise
    except Exception as error:  # whatever the download raises
        raise UserError(
            f"{called}: its weights could not be downloaded: {' '.join(str(error).split())[:150]}"
        ) from None
    return f"timm {base}", _under_body(body.state_dict()), []


def _under_body(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {BODY + name: tensor for name, tensor in _with_counters(state).items()}


def _without_classifier(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in state.items()
        if not name.startswith(("fc.", "classifier.", "head.fc."))
    }
