"""Detectron2: a .pkl for ``MODEL.WEIGHTS``, and the YAML files that must go with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from mcl.interop.detectron2.config import mask_rcnn_config, retinanet_config
from mcl.interop.detectron2.names import from_caffe2, from_detectron2, to_detectron2
from mcl.interop.detectron2.pickle import as_array, read_pickle, write_pickle
from mcl.interop.detectron2.shapes import rcnn_shapes
from mcl.interop.torchvision.resnet_shape import ResnetShape
from mcl.interop.writing.exported import Exported, TrunkSource, require_receiver, same_tensors
from mcl.nn.load_report import match

DEPTHS = {
    ("basic", (2, 2, 2, 2)): 18, ("basic", (3, 4, 6, 3)): 34, ("bottleneck", (3, 4, 6, 3)): 50,
    ("bottleneck", (3, 4, 23, 3)): 101, ("bottleneck", (3, 8, 36, 3)): 152,
}  # fmt: skip
AUTHOR = "mcl"
# The pixel order and scale that Detectron2's own (Caffe2) weights are for; ours are RGB, ImageNet's mean and std.
ZOO_INPUT = {"FORMAT": "BGR", "PIXEL_STD": [1.0, 1.0, 1.0]}


def config_names(out: Path) -> tuple[str, str]:
    """Names of the YAML files beside ``out``: Mask R-CNN, RetinaNet."""
    return f"{out.stem}.yaml", f"{out.stem}.retinanet.yaml"


def write_detectron2(source: TrunkSource, path: Path) -> Exported:
    """Write the .pkl (``matching_heuristics``) and both YAML files.

    Detectron2 itself is not needed: names and shapes are checked against its documented ones, and the file is read
    back and compared bit for bit.

    Raises:
        UserError: Detectron2 has no such ResNet.
        RunFailed: the file does not read back the same.
    """
    shape, depth = _depth(source)
    tensors = {to_detectron2(name): tensor for name, tensor in source.state.items()}
    wanted = rcnn_shapes(shape, source.spec.pyramid_channels, source.spec.head_convs, source.spec.window)
    _, report = match(wanted, tensors, tuple(tensors))
    report.require_complete("export", allow_partial=False)
    content = {
        "model": {name: as_array(tensor) for name, tensor in tensors.items()},
        "__author__": AUTHOR,
        "matching_heuristics": True,
    }
    write_pickle(path, content)
    same_tensors(source.state, read_detectron2(path)[0])
    configs = mask_rcnn_config(source, shape, depth), retinanet_config(source, shape, depth)
    for name, config in zip(config_names(path), configs, strict=True):
        (path.with_name(name)).write_text(
            _HEADER.format(name=path.name) + yaml.safe_dump(config, sort_keys=False), "utf-8"
        )
    return Exported(
        report, {}, "names and shapes are those of Detectron2's documentation; every tensor read back bit for bit",
        config_names(path), ["RGB input, pixel std and stride in the 3x3 are set in the YAML: use it, Detectron2's defaults differ"],
    )  # fmt: skip


_HEADER = """# Goes with {name} (mcl export). In Detectron2:
#   cfg = get_cfg(); cfg.merge_from_file(THIS_FILE); cfg.MODEL.WEIGHTS = PATH_OF_THE_PKL
# RGB input, pixel std and STRIDE_IN_1X1 differ from Detectron2's defaults and must stay as they are here.
# SyncBN needs several GPUs; on one, write BN.
"""


def read_detectron2(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Trunk's tensors in a Detectron2 .pkl (RGB, ImageNet std), and notes on what was converted.

    Weights for BGR pixels of std 1 (Detectron2's own zoo) are turned into weights for ours: exactly the same
    function, with the first convolution's input channels reversed and scaled.

    Raises:
        UserError: see ``read_pickle``.
    """
    content = read_pickle(path)
    zoo = "model" not in content  # Caffe2's files are the dictionary itself, or under "blobs"
    raw = content.get("blobs", content) if zoo else content["model"]
    author = "Caffe2" if zoo else str(content.get("__author__", "unknown"))
    named = {
        from_caffe2(name) if zoo else name: value
        for name, value in raw.items()
        if not name.endswith("_momentum")
    }
    state: dict[str, Tensor] = {}
    for name, value in named.items():
        ours = from_detectron2(name)
        if ours is not None:
            state[ours] = torch.from_numpy(np.array(value))
    notes = [f"Detectron2 file of {author!r}"]
    described = _described_input(path)
    if described is None and (zoo or "detectron2 model zoo" in author.lower()):
        described = ZOO_INPUT
        notes.append(
            "strides in the 1x1 convolutions (Caffe2's ResNet) cannot be expressed here: outputs differ"
        )
    if described is not None:
        notes += to_rgb(state, described)
    elif author not in (AUTHOR, "torchvision"):
        notes.append("no YAML beside it says whether it wants RGB or BGR; taken as RGB with ImageNet's std")
    return state, notes


def to_rgb(state: dict[str, Tensor], described: Mapping[str, Any]) -> list[str]:
    """Turn the first convolution into one for RGB and ImageNet's std, in place; ``described``: FORMAT, PIXEL_STD."""
    stem, notes = "backbone.body.conv1.weight", []
    if stem not in state:
        return notes
    if described["FORMAT"] == "BGR":
        state[stem] = state[stem].flip(1).contiguous()
        notes.append("made for BGR images: the first convolution's input channels were reversed for RGB")
    if max(described["PIXEL_STD"]) <= 1.0:
        scale = torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1)
        state[stem] = state[stem] * scale
        notes.append("made for pixels of std 1: the first convolution was scaled for ImageNet's std")
    return notes


def _described_input(path: Path) -> dict[str, Any] | None:
    """FORMAT and PIXEL_STD of the YAML of the same name, if there is one."""
    config = path.with_suffix(".yaml")
    if not config.is_file():
        return None
    try:
        content = yaml.safe_load(config.read_text("utf-8")) or {}
        std = (content.get("MODEL") or {}).get("PIXEL_STD", ZOO_INPUT["PIXEL_STD"])
        return {
            "FORMAT": (content.get("INPUT") or {}).get("FORMAT", "BGR"),
            "PIXEL_STD": [float(x) for x in std],
        }
    except (yaml.YAMLError, AttributeError, TypeError, ValueError, UnicodeDecodeError):
        return None


def _depth(source: TrunkSource) -> tuple[ResnetShape, int]:
    shape = ResnetShape.of(source.body)
    plain = (
        shape is not None
        and shape.stem_differs() is None
        and source.spec.backbone.startswith(("resn", "wide_resnet"))
    )
    depth = DEPTHS.get((shape.block, shape.counts)) if plain else None
    require_receiver(source, depth is not None, "detectron2", "ResNets of depth 18, 34, 50, 101 and 152")
    return shape, depth
