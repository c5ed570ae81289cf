"""A detector read from an ONNX file of ours, run by onnxruntime."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mcl.errors import UserError

DESCRIBED = "mcl"  # key of the file's metadata: class names and size of images, as JSON


def is_onnx(path: Path) -> bool:
    """Whether a path's name is that of an ONNX file."""
    return path.suffix.lower() == ".onnx"


def describe(plan: Any) -> str:
    """What a file's metadata tells besides the network; ``plan`` is a ``DetectorPlan``."""
    told = {"names": list(plan.names), "image_size": plan.image_size, "short_sides": list(plan.short_sides), "long_side": plan.long_side}
    return json.dumps(told)


class OnnxDetector:
    """Call it with an image (3, H, W) in 0..1: ``boxes`` (n, 4) in its pixels, ``labels`` from 1, ``scores``[, ``masks``].

    Attributes:
        names: of the classes, label 1 first.
        framing: ``image_size``, ``short_sides``, ``long_side``: how images are brought to size.

    Raises:
        UserError: onnxruntime is not installed, or the file is damaged or not a detector of ``mcl export``.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        if importlib.util.find_spec("onnxruntime") is None:
            raise UserError(f"{path}: needs onnxruntime: pip install 'mcl[onnx]'")
        import onnxruntime

        if not path.is_file():
            raise UserError(f"{path}: no such file; give an .onnx file of mcl export --to onnx")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has an exception of its own for every stage
            raise UserError(f"{path}: onnxruntime cannot read it: {' '.join(str(error).split())[:200]}") from None
        told = self._session.get_modelmeta().custom_metadata_map.get(DESCRIBED)
        self.outputs = [output.name for output in self._session.get_outputs()]
        if told is None or not {"boxes", "labels", "scores"} <= set(self.outputs):
            raise UserError(f"{path}: does not tell its classes; export the detector again: mcl export RUN --to onnx --out {path.name}")
        described: Mapping[str, Any] = json.loads(told)
        self.names = tuple(described["names"])
        self.framing = {key: described[key] for key in ("image_size", "short_sides", "long_side")}

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        """Detections of an image."""
        found = self._session.run(None, {"image": image.numpy()})
        return {name: torch.from_numpy(value) for name, value in zip(self.outputs, found, strict=True)}
