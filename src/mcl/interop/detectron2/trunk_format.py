"""Detectron2: a .pkl for ``MODEL.WEIGHTS``, and the YAML files that must go with it."""

from __future__ import annotations

from pathlib import Path

import yaml
from torch import Tensor

from mcl.interop.detectron2.config import mask_rcnn_config, retinanet_config
from mcl.interop.detectron2.names import NAMES, to_detectron2
from mcl.interop.detectron2.pickle import as_array, write_pickle
from mcl.interop.detectron2.reading import AUTHOR, read_detectron2
from mcl.interop.detectron2.shapes import rcnn_shapes
from mcl.interop.torchvision.resnet_shape import ResnetShape, plain_shape
from mcl.interop.writing.exported import Exported, Unfit, same_tensors
from mcl.interop.writing.plain_rcnn import prove
from mcl.interop.writing.source import TrunkSource
from mcl.nn.load_report import match

DEPTHS = {
    ("basic", (2, 2, 2, 2)): 18, ("basic", (3, 4, 6, 3)): 34, ("bottleneck", (3, 4, 6, 3)): 50,
    ("bottleneck", (3, 4, 23, 3)): 101, ("bottleneck", (3, 8, 36, 3)): 152,
}  # fmt: skip
HEADER = """# Goes with {name} (mcl export). In Detectron2:
#   cfg = get_cfg(); cfg.merge_from_file(THIS_FILE); cfg.MODEL.WEIGHTS = PATH_OF_THE_PKL
# RGB input, pixel std and STRIDE_IN_1X1 differ from Detectron2's defaults and must stay as they are here.
# SyncBN needs several GPUs; on one, write BN.
"""


def companions(out: Path) -> tuple[str, str]:
    """The YAML files beside ``out``: Mask R-CNN, RetinaNet."""
    return f"{out.stem}.yaml", f"{out.stem}.retinanet.yaml"


def fit(source: TrunkSource) -> Exported:
    """Compare the trunk with the graph that Detectron2 builds (it need not be installed), names and shapes included.

    Raises:
        Unfit: Detectron2 has no such ResNet.
        RunFailed: pyramid or head differ.
    """
    shape, _ = _shape(source)
    tensors = _tensors(source)
    wanted = rcnn_shapes(shape, source.spec.pyramid_channels, source.spec.head_convs, source.window)
    _, report = match(wanted, tensors, tuple(tensors))
    report.require_complete("export", allow_partial=False)
    differences = prove(source, tensors, NAMES, shape)
    note = "RGB input, pixel std and stride in the 3x3 are set in the YAML: use it, Detectron2's defaults differ"
    return Exported(report, differences, "the graph that Detectron2 documents, built from the file's tensors", notes=[note])


def write(source: TrunkSource, path: Path) -> Exported:
    """Write the .pkl (``matching_heuristics``) and both YAML files.

    Raises:
        Unfit: see ``fit``.
        RunFailed: the file does not read back the same.
    """
    done, (shape, depth) = fit(source), _shape(source)
    model = {name: as_array(tensor) for name, tensor in _tensors(source).items()}
    write_pickle(path, {"model": model, "__author__": AUTHOR, "matching_heuristics": True})
    same_tensors(source.state, read_detectron2(path)[0])
    configs = mask_rcnn_config(source, shape, depth), retinanet_config(source, shape, depth)
    for name, config in zip(companions(path), configs, strict=True):
        text = HEADER.format(name=path.name) + yaml.safe_dump(config, sort_keys=False)
        path.with_name(name).write_text(text, "utf-8")
    return done


def _tensors(source: TrunkSource) -> dict[str, Tensor]:
    return {to_detectron2(name): tensor for name, tensor in source.state.items()}


def _shape(source: TrunkSource) -> tuple[ResnetShape, int]:
    """The ResNet, and its ``RESNETS.DEPTH``."""
    shape = plain_shape(source.body)
    depth = DEPTHS.get((shape.block, shape.counts)) if shape else None
    if depth is None:
        raise Unfit(f"it has no {source.backbone}, only ResNets of depth 18, 34, 50, 101 and 152")
    return shape, depth
