"""detector.safetensors: a fine-tuned detector with everything needed to build it again."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mcl.detect.base import Detector, DetectorPlan
from mcl.detect.registry import DETECTORS, build_detector, settings_of
from mcl.errors import UserError, did_you_mean
from mcl.nn.trunk import TrunkSpec

FORMAT_VERSION = 2  # 1: R-CNNs only, told apart by ``masks``
FILE_NAME = "detector.safetensors"


def save_detector(path: Path, detector: Detector, plan: DetectorPlan, metadata: dict[str, Any]) -> None:
    """Write weights, buffers, plan and ``metadata`` (JSON types), complete or not at all."""
    described = {
        "format_version": FORMAT_VERSION,
        **metadata,
        "plan": {
            **asdict(plan),
            "spec": asdict(plan.spec),
            "settings": plan.settings.model_dump(mode="json"),
        },
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in detector.state_dict().items()}
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, {key: json.dumps(value) for key, value in described.items()})
    partial.replace(path)


def load_detector(path: Path, score_threshold: float | None = None) -> tuple[Detector, DetectorPlan]:
    """The detector of a fine-tuning run folder or ``detector.safetensors``, in eval mode.

    Args:
        score_threshold: drop detections that score less; None: as it was trained.

    Raises:
        UserError: missing, not a detector of ours, of a newer format, or damaged.
    """
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"--detector {path}: no {FILE_NAME} there; give the run folder of a finished mcl finetune"
        )
    metadata, state = _read(file)
    if "plan" not in metadata:
        raise UserError(f"--detector {file}: not a detector of mcl (its metadata has no 'plan')")
    if metadata.get("format_version", 0) > FORMAT_VERSION:
        raise UserError(
            f"--detector {file}: format {metadata['format_version']}, this mcl reads up to {FORMAT_VERSION}"
        )
    try:
        plan = _plan(metadata["plan"], score_threshold)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"--detector {file}: its plan is not one of mcl: {' '.join(str(error).split())[:300]}") from None
    detector = build_detector(plan)
    try:
        detector.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"--detector {file}: {' '.join(str(error).split())[:300]}") from None
    return detector.eval(), plan


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(file, "pt") as opened:
            metadata = {key: json.loads(value) for key, value in (opened.metadata() or {}).items()}
            return metadata, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"--detector {file}: not a readable safetensors file: {error}") from None


def _plan(stored: dict[str, Any], score_threshold: float | None) -> DetectorPlan:
    given = dict(stored["settings"])
    name = given.setdefault("name", "mask-rcnn" if stored.get("masks") else "faster-rcnn")
    if name not in DETECTORS:
        raise ValueError(f"no detector {name!r}{did_you_mean(str(name), DETECTORS)}; there are: {', '.join(DETECTORS)}")
    kind = settings_of(name)
    # Before detectors had names, settings of the mask head were written for a Faster R-CNN too.
    if "masks" in stored:
        given = {key: value for key, value in given.items() if key in kind.model_fields}
    if score_threshold is not None:
        given["score_threshold"] = score_threshold
    spec = {key: tuple(value) if isinstance(value, list) else value for key, value in stored["spec"].items()}
    return DetectorPlan(
        TrunkSpec(**spec), tuple(stored["names"]), kind(**given), stored["image_size"],
        tuple(stored["short_sides"]), stored["long_side"],
    )  # fmt: skip
