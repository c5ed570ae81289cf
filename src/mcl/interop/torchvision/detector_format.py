"""torchvision: a whole fine-tuned detector's state dict, with the code that builds its receiver."""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision.models.detection import FasterRCNN

from mcl.interop.torchvision import resnet_format
from mcl.interop.torchvision.builder import builder_source, load_builder
from mcl.interop.torchvision.resnet_format import read_state
from mcl.interop.writing.detections import UNIT, compare_detectors
from mcl.interop.writing.exported import Exported, Unfit
from mcl.interop.writing.source import DetectorSource, TrunkSource
from mcl.nn.load_report import match
from mcl.nn.parts import BODY
from mcl.nn.trunk import Trunk


def companions(out: Path) -> tuple[str, ...]:
    """The Python file beside ``out`` that builds the receiver."""
    return (f"{out.stem.replace('.', '_')}.py",)


def fit(source: DetectorSource) -> Exported:
    """Compare the detector's backbone with torchvision's; the rest is torchvision's already.

    Raises:
        Unfit: the backbone is none of torchvision's ResNets, or the detector none that ``builder`` writes.
    """
    if not isinstance(source.detector, FasterRCNN):
        raise Unfit(f"the code beside it builds Faster and Mask R-CNN, not {type(source.detector).__name__}")
    return resnet_format.fit(_backbone(source))


def write(source: DetectorSource, path: Path) -> Exported:
    """Write the detector's state dict, and a Python file that builds its receiver from torchvision alone.

    Raises:
        Unfit: see ``fit``.
        RunFailed: the receiver's detections differ.
    """
    fit(source)
    torch.save(source.detector.state_dict(), path)
    (name,) = companions(path)
    code = path.with_name(name)
    code.write_text(builder_source(source.detector, source.plan, path.name), "utf-8")
    receiver = load_builder(code)()
    fits, report = match(receiver.state_dict(), read_state(path), ("",))
    report.require_complete("export", allow_partial=False)
    receiver.load_state_dict(fits)
    receiver.eval()
    differences, seen = compare_detectors(
        source.detector, lambda image: receiver([image])[0], source.plan.image_size
    )
    by = f"torchvision's {type(receiver).__name__} ({name}) on {seen}"
    note = f"{name} builds the detector without mcl: build()"
    return Exported(report, differences, by, unit=UNIT, notes=[note])


def _backbone(source: DetectorSource) -> TrunkSource:
    """The detector's backbone as a trunk."""
    trunk = Trunk(source.plan.trunk)
    state = source.detector.state_dict()
    trunk.load_state_dict({name: state[name] for name in trunk.state_dict() if name.startswith(BODY)}, strict=False)
    return TrunkSource(trunk.eval(), {}, "backbone", source.origin)
