"""A whole fine-tuned detector: as ONNX, or as torchvision's state dict with the code that builds its receiver."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN

from mcl.errors import RunFailed, UserError
from mcl.interop.exported import Exported
from mcl.interop.load_report import match

OPSET = 17
OUTPUTS = ("boxes", "labels", "scores", "masks")
# Scores and boxes go through exp and a resize; single precision in another order of operations moves them this much.
SCORE_TOLERANCE, PIXEL_TOLERANCE = 1e-4, 1e-2


def write_onnx(detector: FasterRCNN, image_size: int, path: Path) -> Exported:
    """Write the detector by torchvision's exporter, and compare it with onnxruntime on three images.

    The network takes ``image`` (3, H, W), RGB in 0..1, of any height and width, and resizes it itself; it gives
    ``boxes`` (n, 4) in pixels of that image, ``labels``, ``scores`` and, with a mask head, ``masks`` (n, 1, H, W).

    Args:
        detector: in eval mode.
        image_size: side of the image that the exporter traces.

    Raises:
        UserError: onnx or onnxruntime is not installed.
        RunFailed: onnxruntime's detections differ.
    """
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--to onnx needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    import onnxruntime

    example = [torch.rand(3, image_size, image_size, generator=torch.Generator().manual_seed(0))]
    names = list(OUTPUTS[: 4 if detector.roi_heads.has_mask() else 3])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer warns of every Python number it makes constant
        # The exporter that torchvision's detectors support; the newer one cannot follow their control flow.
        torch.onnx.export(
            detector, (example,), str(path), dynamo=False, opset_version=OPSET, input_names=["image"], output_names=names,
            dynamic_axes={"image": {1: "height", 2: "width"}, **{name: {0: "detections"} for name in names}},
        )  # fmt: skip
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    differences: dict[str, float] = {}
    for image in _three_images(image_size):
        with torch.no_grad():
            ours = detector([image])[0]
        theirs = {n: torch.from_numpy(v) for n, v in zip(names, session.run(None, {"image": image.numpy()}), strict=True)}
        _compare_detections(ours, theirs, differences)
    _, report = match(detector.state_dict(), detector.state_dict(), ("",))
    count = f"onnxruntime {onnxruntime.__version__} on three images ({', '.join(names)})"
    return Exported(report, differences, count, notes=[f"opset {OPSET}; input: image (3, height, width), RGB in 0..1"])


def builder_name(out: Path) -> str:
    """Name of the Python file beside ``out`` that builds the receiver."""
    return f"{out.stem.replace('.', '_')}.py"


def write_torchvision_detector(detector: FasterRCNN, plan: Any, path: Path) -> Exported:
    """Write the detector's state dict, and a Python file that builds its receiver from torchvision alone.

    Raises:
        UserError: the backbone is not one of torchvision's ResNets.
        RunFailed: the receiver's detections differ.
    """
    from mcl.interop.torchvision_builder import builder_source, load_builder

    torch.save(detector.state_dict(), path)
    code = path.with_name(builder_name(path))
    code.write_text(builder_source(detector, plan), "utf-8")
    receiver = load_builder(code)()
    fits, report = match(receiver.state_dict(), torch.load(path, map_location="cpu", weights_only=True), ("",))
    report.require_complete("export", allow_partial=False)
    receiver.load_state_dict(fits)
    receiver.eval()
    differences: dict[str, float] = {}
    for image in _three_images(plan.image_size):
        with torch.no_grad():
            _compare_detections(detector([image])[0], receiver([image])[0], differences)
    kind = f"torchvision's {type(receiver).__name__} ({code.name}) on three images"
    return Exported(report, differences, kind, notes=[f"{code.name} builds the detector without mcl: build()"])


def _three_images(size: int) -> list[Tensor]:
    """Three images of different shape, (3, H, W) in 0..1: blobs, so that boxes are found."""
    generator = torch.Generator().manual_seed(1)
    images = []
    for height, width in ((size, size), (size, max(32, size * 3 // 4)), (max(32, size * 5 // 8), size)):
        coarse = torch.rand(1, 3, 6, 6, generator=generator)
        images.append(torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0])
    return images


def _compare_detections(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], differences: dict[str, float]) -> None:
    for name, other in theirs.items():
        own, tolerance = ours[name], PIXEL_TOLERANCE if name == "boxes" else SCORE_TOLERANCE
        if own.shape != other.shape:
            raise RunFailed(f"export check failed: {len(own)} detections here, {len(other)} there; nothing was written")
        apart = float((own.float() - other.float()).abs().max()) if own.numel() else 0.0
        if not apart <= tolerance:
            raise RunFailed(f"export check failed: {name} differ by {apart:.1e}; nothing was written")
        differences[name] = max(apart, differences.get(name, 0.0))
