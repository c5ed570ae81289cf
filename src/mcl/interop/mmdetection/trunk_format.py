"""MMDetection 3: a .pth for ``init_cfg`` and a config that inherits Mask R-CNN R50-FPN 1x and uses it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mcl.interop.mmdetection.config import config_text
from mcl.interop.mmdetection.names import NAMES, from_mmdetection, to_mmdetection
from mcl.interop.mmdetection.shapes import HEAD_CONVS, rcnn_shapes
from mcl.interop.torchvision.resnet_shape import ResnetShape, plain_shape
from mcl.interop.writing.exported import Exported, Unfit, same_tensors
from mcl.interop.writing.plain_rcnn import prove
from mcl.interop.writing.source import TrunkSource
from mcl.nn.load_report import match

DEPTHS = {
    "resnet18": 18, "resnet34": 34, "resnet50": 50, "resnet101": 101, "resnet152": 152, "resnext50_32x4d": 50,
    "resnext101_32x8d": 101, "resnext101_64x4d": 101,
}  # fmt: skip


def companions(out: Path) -> tuple[str, ...]:
    """The config beside ``out`` (a Python file, as MMDetection's are)."""
    return (f"{out.stem.replace('.', '_')}.py",)


def fit(source: TrunkSource) -> Exported:
    """Compare the trunk with the graph that MMDetection builds (it need not be installed), names and shapes included.

    Raises:
        Unfit: MMDetection has no such ResNet, or no box head with this many convolutions.
        RunFailed: pyramid or head differ.
    """
    shape = _shape(source)
    if source.has_head and source.spec.head_convs != HEAD_CONVS:
        raise Unfit(
            f"its Shared4Conv1FCBBoxHead has {HEAD_CONVS} convolutions, this head {source.spec.head_convs} "
            "(--parts backbone+pyramid leaves it away)"
        )
    tensors = _tensors(source)
    _, report = match(rcnn_shapes(shape, source), tensors, tuple(tensors))
    report.require_complete("export", allow_partial=False)
    differences = prove(source, tensors, NAMES, shape)
    note = "the config names the .pth by file name: run MMDetection in its folder, or edit it"
    return Exported(report, differences, "the graph that MMDetection 3 documents, built from the file's tensors", notes=[note])


def write(source: TrunkSource, path: Path) -> Exported:
    """Write the .pth and its config.

    Raises:
        Unfit: see ``fit``.
        RunFailed: the file does not read back the same.
    """
    done = fit(source)
    torch.save({"state_dict": _tensors(source), "meta": {"author": "mcl"}}, path)
    read = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    same_tensors(source.state, from_mmdetection(read))
    (config,) = companions(path)
    text = config_text(source, _shape(source), DEPTHS[_shape(source).name], path.name)
    path.with_name(config).write_text(text, "utf-8")
    return done


def _tensors(source: TrunkSource) -> dict[str, Tensor]:
    return {to_mmdetection(name): tensor for name, tensor in source.state.items()}


def _shape(source: TrunkSource) -> ResnetShape:
    shape = plain_shape(source.body)
    if shape is None or shape.name not in DEPTHS:
        raise Unfit(f"it has no {source.backbone}, only ResNets of depth 18, 34, 50, 101 and 152")
    return shape
