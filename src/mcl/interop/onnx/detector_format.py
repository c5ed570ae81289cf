"""ONNX: a whole fine-tuned detector, for onnxruntime."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import torch
from torch import Tensor

from mcl.errors import UserError
from mcl.interop.onnx.session import DESCRIBED, describe
from mcl.interop.writing.detections import UNIT, compare_detectors
from mcl.interop.writing.exported import Exported
from mcl.interop.writing.source import DetectorSource
from mcl.nn.load_report import match

OPSET = 17


def companions(out: Path) -> tuple[str, ...]:
    """None."""
    return ()


def fit(source: DetectorSource) -> Exported:
    """Any detector fits, if the packages are there.

    Raises:
        UserError: onnx or onnxruntime is not installed.
    """
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--to onnx needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    state = source.detector.state_dict()
    return Exported(match(state, state, ("",))[1], {}, "onnxruntime")


def write(source: DetectorSource, path: Path) -> Exported:
    """Write the detector by torchvision's exporter, and compare it with onnxruntime on three images.

    The network takes ``image`` (3, H, W), RGB in 0..1, of any height and width, and resizes it itself; it gives
    ``boxes`` (n, 4) in pixels of that image, ``labels``, ``scores`` and, with a mask head, ``masks`` (n, 1, H, W). Its
    metadata tells class names and image size (``describe``), so that ``mcl predict`` needs nothing else.

    Raises:
        UserError: see ``fit``.
        RunFailed: onnxruntime's detections differ.
    """
    report, detector, size = fit(source).report, source.detector, source.plan.image_size
    import onnx
    import onnxruntime

    example = [torch.rand(3, size, size, generator=torch.Generator().manual_seed(0))]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer warns of every Python number it makes constant
        names = list(detector(example)[0])  # outputs are named by their order, which differs between detectors
        # The exporter that torchvision's detectors support; the newer one cannot follow their control flow.
        torch.onnx.export(
            detector, (example,), str(path), dynamo=False, opset_version=OPSET, input_names=["image"], output_names=names,
            dynamic_axes={"image": {1: "height", 2: "width"}, **{name: {0: "detections"} for name in names}},
        )  # fmt: skip
    written = onnx.load(path)
    written.metadata_props.add(key=DESCRIBED, value=describe(source.plan))
    onnx.save(written, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(image: Tensor) -> dict[str, Tensor]:
        found = session.run(None, {"image": image.numpy()})
        return {name: torch.from_numpy(value) for name, value in zip(names, found, strict=True)}

    differences, seen = compare_detectors(detector, run, size)
    by = f"onnxruntime {onnxruntime.__version__} on {seen}"
    note = f"opset {OPSET}; input: image (3, height, width), RGB in 0..1; outputs: {', '.join(names)}"
    return Exported(report, differences, by, unit=UNIT, notes=[note])
