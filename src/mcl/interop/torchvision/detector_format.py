"""A whole fine-tuned detector: as ONNX, or as torchvision's state dict with the code that builds its receiver."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mcl.errors import RunFailed, UserError
from mcl.interop.torchvision.builder import builder_source, load_builder
from mcl.interop.writing.exported import Exported
from mcl.nn.load_report import match

OPSET = 17
OUTPUTS = ("boxes", "labels", "scores", "masks")
# Scores and boxes go through exp and a resize; single precision in another order of operations moves them this much.
TOLERANCES = {"boxes": 1e-2, "labels": 0.0, "scores": 1e-4, "masks": 1e-3}
UNIT = "boxes in pixels"


def write_onnx(detector: nn.Module, image_size: int, path: Path) -> Exported:
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
    names = list(OUTPUTS[: 4 if "segm" in detector.finds else 3])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer warns of every Python number it makes constant
        # The exporter that torchvision's detectors support; the newer one cannot follow their control flow.
        torch.onnx.export(
            detector, (example,), str(path), dynamo=False, opset_version=OPSET, input_names=["image"], output_names=names,
            dynamic_axes={"image": {1: "height", 2: "width"}, **{name: {0: "detections"} for name in names}},
        )  # fmt: skip
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(image: Tensor) -> dict[str, Tensor]:
        return {
            n: torch.from_numpy(v)
            for n, v in zip(names, session.run(None, {"image": image.numpy()}), strict=True)
        }

    differences, seen = _check(detector, run, image_size)
    _, report = match(detector.state_dict(), detector.state_dict(), ("",))
    count = f"onnxruntime {onnxruntime.__version__} on {seen}"
    return Exported(
        report,
        differences,
        count,
        unit=UNIT,
        notes=[f"opset {OPSET}; input: image (3, height, width), RGB in 0..1"],
    )


def builder_name(out: Path) -> str:
    """Name of the Python file beside ``out`` that builds the receiver."""
    return f"{out.stem.replace('.', '_')}.py"


def write_torchvision_detector(detector: nn.Module, plan: Any, path: Path) -> Exported:
    """Write the detector's state dict, and a Python file that builds its receiver from torchvision alone.

    Args:
        detector: in eval mode.
        plan: see ``builder_source``.

    Raises:
        UserError: the backbone is not one of torchvision's ResNets.
        RunFailed: the receiver's detections differ.
    """
    code_text = builder_source(detector, plan, path.name)
    torch.save(detector.state_dict(), path)
    code = path.with_name(builder_name(path))
    code.write_text(code_text, "utf-8")
    receiver = load_builder(code)()
    fits, report = match(
        receiver.state_dict(), torch.load(path, map_location="cpu", weights_only=True), ("",)
    )
    report.require_complete("export", allow_partial=False)
    receiver.load_state_dict(fits)
    receiver.eval()
    differences, seen = _check(detector, lambda image: receiver([image])[0], plan.image_size)
    kind = f"torchvision's {type(receiver).__name__} ({code.name}) on {seen}"
    return Exported(
        report, differences, kind, unit=UNIT, notes=[f"{code.name} builds the detector without mcl: build()"]
    )


def _check(
    detector: nn.Module, other: Callable[[Tensor], Mapping[str, Tensor]], size: int
) -> tuple[dict[str, float], str]:
    """Compare detections on three images; returns the largest differences and how many detections were compared."""
    differences: dict[str, float] = {}
    compared = 0
    for image in _three_images(detector, size):
        with torch.no_grad():
            compared += _compare_detections(detector([image])[0], other(image), differences)
    return differences, f"three images, {compared} detections"


@torch.no_grad()
def _three_images(detector: nn.Module, size: int) -> list[Tensor]:
    """Three images of different shape, (3, H, W) in 0..1: coloured blobs, those with most detections of a few."""
    generator = torch.Generator().manual_seed(1)
    images = []
    for shape in ((size, size), (size, max(32, size * 3 // 4)), (max(32, size * 5 // 8), size)):
        blobs = [torch.rand(1, 3, cells, cells, generator=generator) for cells in (3, 6, 12)]
        tried = [torch.nn.functional.interpolate(blob, shape, mode="bilinear")[0] for blob in blobs]
        images.append(max(tried, key=lambda image: len(detector([image])[0]["scores"])))
    return images


def _compare_detections(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], differences: dict[str, float]
) -> int:
    """Match each detection with the nearest of the same label; nearly all must have one.

    A detection on the threshold, or one of two of equal score, may fall out on one side alone: one in fifty may.
    """
    count = len(ours["scores"])
    if abs(count - len(theirs["scores"])) > max(1, count // 50):
        raise RunFailed(
            f"export check failed: {count} detections here, {len(theirs['scores'])} there; nothing was written"
        )
    if count == 0 or len(theirs["scores"]) == 0:
        return 0
    # (n, 4) and (m, 4) -> (n, m)
    apart = (ours["boxes"][:, None] - theirs["boxes"][None]).abs().amax(dim=2)
    apart = apart + 1e6 * (ours["labels"][:, None] != theirs["labels"][None])
    apart = apart + (ours["scores"][:, None] - theirs["scores"][None]).abs()
    nearest = apart.argmin(dim=1)
    values = {
        name: (ours[name].float() - theirs[name][nearest].float())
        .abs()
        .flatten(1 if ours[name].dim() > 1 else 0)
        for name in theirs
    }
    worst = {name: value.amax(dim=1) if value.dim() > 1 else value for name, value in values.items()}
    good = torch.stack([worst[name] <= TOLERANCES.get(name, 1e-4) for name in worst]).all(dim=0)
    if int((~good).sum()) > max(1, count // 50):
        listed = ", ".join(f"{name} {float(value.max()):.1e}" for name, value in worst.items())
        raise RunFailed(
            f"export check failed: {int((~good).sum())} of {count} detections differ ({listed}); nothing was written"
        )
    for name, value in worst.items():
        differences[name] = max(differences.get(name, 0.0), float(value[good].max()) if good.any() else 0.0)
    return int(good.sum())
