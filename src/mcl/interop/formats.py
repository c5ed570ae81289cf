"""What ``mcl export`` can write, each format once: help, choices, checks of arguments, dispatch and the docs' table.

A new format is a module with the functions of ``mcl.interop.writing.exported.FormatModule``, and an entry below.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mcl.config.parts import Parts

ALL = "all"


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: as ``--to`` knows it.
        writes: what is written, for help and docs.
        receiver: how the other library loads it (Markdown).
        backbones: families that it takes; ``ALL``: any.
        check: through what an export is checked (Markdown).
        trunk: module that writes a trunk; None: it holds whole detectors only.
        detector: module that writes a whole fine-tuned detector; None: it holds trunks only.
        parts: the most of a trunk that it holds.
        ending: what the file's name must end with for the receiver to know what it is; "": anything.
    """

    name: str
    writes: str
    receiver: str
    check: str
    backbones: str = ALL
    trunk: str | None = None
    detector: str | None = None
    parts: Parts = "backbone+pyramid+head"
    ending: str = ""


_ENTRIES = (
    Format(
        "torchvision",
        "state dict (.pth) of Mask/Faster R-CNN v2; --with detector: of a whole detector, and code that builds it",
        "`maskrcnn_resnet50_fpn_v2` or `fasterrcnn_resnet50_fpn_v2`, `strict=False`; other depths and widths: a "
        "`MaskRCNN` of the same form. With `--parts backbone` as below",
        "torchvision: C2..C5, P2..P5, box-head convolutions; a detector: its detections on three images",
        backbones="ResNets",
        trunk="mcl.interop.torchvision.trunk_format",
        detector="mcl.interop.torchvision.detector_format",
    ),
    Format(
        "torchvision-resnet",
        "state dict (.pth) of a ResNet",
        "`resnet50().load_state_dict(..., strict=False)`, only `fc` missing",
        "torchvision: C2..C5",
        backbones="ResNets",
        trunk="mcl.interop.torchvision.resnet_format",
        parts="backbone",
    ),
    Format(
        "timm",
        "folder for timm and the Hugging Face hub: model.safetensors, config.json, model card",
        '`timm.create_model("local-dir:PATH", pretrained=True)`, also `features_only=True`; upload the folder as it is',
        "timm: C2..C5",
        trunk="mcl.interop.timm.trunk_format",
        parts="backbone",
    ),
    Format(
        "detectron2",
        ".pkl, and YAML of Mask/Faster R-CNN (4conv1fc) and of RetinaNet",
        "`MODEL.WEIGHTS`; use the YAML: RGB, pixel std and stride in the 3x3 differ from Detectron2's defaults",
        "its graph, built from the file's tensors: C2..C5, P2..P5, box-head convolutions; read back bit for bit",
        backbones="ResNets of depth 18, 34, 50, 101, 152",
        trunk="mcl.interop.detectron2.trunk_format",
        ending=".pkl",
    ),
    Format(
        "detectron2-vitdet",
        ".pkl under ViTDet's names, and a lazy config (.py)",
        "`tools/lazyconfig_train_net.py --config-file PATH.py`; its ViT has no class token, so ours is left out",
        "its graph, built from the file's tensors: the last map, P2..P5, box-head convolutions",
        backbones="plain transformers with patches of 16 px",
        trunk="mcl.interop.detectron2.vitdet_format",
        ending=".pkl",
    ),
    Format(
        "mmdetection",
        ".pth, and a config (.py) that inherits Mask R-CNN R50-FPN 1x",
        "`python tools/train.py PATH.py`; its box head has 4 convolutions",
        "its graph, built from the file's tensors: C2..C5, P2..P5, box-head convolutions; read back bit for bit",
        backbones="ResNets of depth 18, 34, 50, 101, 152, not wide ones",
        trunk="mcl.interop.mmdetection.trunk_format",
    ),
    Format(
        "safetensors",
        "mcl's own file",
        "`mcl.load_trunk`, `mcl finetune --trunk`",
        "mcl: C2..C5, P2..P5, box-head convolutions",
        trunk="mcl.interop.writing.safetensors_format",
    ),
    Format(
        "onnx",
        "a whole fine-tuned detector",
        "onnxruntime: `image` (3, H, W), RGB in 0..1, any size → `boxes, labels, scores[, masks]`",
        "onnxruntime: its detections on three images",
        detector="mcl.interop.onnx.detector_format",
    ),
)
FORMATS = {entry.name: entry for entry in _ENTRIES}


def holding(content: str) -> Iterator[Format]:
    """Formats that hold a ``trunk`` or a whole ``detector``."""
    return (entry for entry in FORMATS.values() if getattr(entry, content))


def to_flags(names: list[str], word: str = "or") -> str:
    """``--to a or --to b``."""
    return f" {word} ".join(f"--to {name}" for name in names)


def help_text() -> str:
    """What ``--to`` says in help."""
    return "; ".join(f"{entry.name}: {entry.writes}" for entry in FORMATS.values()) + "."


def table() -> str:
    """The table of docs/export.md."""
    rows = [
        (f"`{entry.name}`", entry.writes, _takes(entry), entry.receiver, entry.backbones, entry.check)
        for entry in FORMATS.values()
    ]
    header = ("`--to`", "writes", "of", "receiver", "backbones", "checked through")
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _takes(entry: Format) -> str:
    trunk = "backbone" if entry.parts == "backbone" else "trunk"
    return ", ".join([trunk] * bool(entry.trunk) + ["detector"] * bool(entry.detector))
