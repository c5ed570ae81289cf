"""detector.safetensors: a fine-tuned detector with everything needed to build it again."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mcl.detect.base import Detector, DetectorPlan
from mcl.detect.registry import DETECTORS, build_detector, settings_of
from mcl.errors import UserError, did_you_mean
from mcl.files import save_tensors
from mcl.nn.described import RANGES, checked_spec, require_fit, trunk_of_detector
from mcl.nn.stored import DETECTOR_FILE, read_stored, require_version, short, what_is_there
from mcl.nn.trunk import TrunkSpec

FORMAT_VERSION = 2  # 1: R-CNNs only, told apart by ``masks``
FILE_NAME = DETECTOR_FILE


def save_detector(path: Path, detector: Detector, plan: DetectorPlan, metadata: dict[str, Any]) -> None:
    """Write weights, buffers, plan and ``metadata`` (JSON types), complete or not at all."""
    described = {
        "format_version": FORMAT_VERSION,
        **metadata,
        "plan": {
            **asdict(plan),
            "spec": plan.spec.described(),
            "settings": plan.settings.model_dump(mode="json"),
        },
    }
    save_tensors(path, detector.state_dict(), {key: json.dumps(value) for key, value in described.items()})


def load_detector(
    path: Path, score_threshold: float | None = None, setting: str = "--detector"
) -> tuple[Detector, DetectorPlan]:
    """The detector of a fine-tuning run folder or ``detector.safetensors``, in eval mode.

    Args:
        score_threshold: drop detections that score less; None: as it was trained.
        setting: that named the path, for errors.

    Raises:
        UserError: missing, not a detector of ours, of a newer format, or damaged.
    """
    file = path / FILE_NAME if what_is_there(path) == "folder" else path
    if not what_is_there(file):
        raise UserError(
            f"{setting} {path}: no {FILE_NAME} there; give the run folder of a finished mcl finetune"
        )
    where, (metadata, state) = f"{setting} {file}", read_stored(file)
    if "plan" not in metadata:
        raise UserError(f"{where}: not a detector of mcl (its metadata has no 'plan')")
    require_version(metadata, FORMAT_VERSION, where)
    told, of_trunk = trunk_of_detector(metadata, state, where)
    spec = TrunkSpec(**checked_spec(told["spec"], of_trunk, where))
    try:
        plan = _plan(metadata["plan"], spec, score_threshold)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: its plan is not one of mcl: {' '.join(str(error).split())[:300]}") from None
    require_fit(lambda: build_detector(plan), state, where)
    detector = build_detector(plan)
    detector.load_state_dict(state)
    return detector.eval(), plan


def _plan(stored: dict[str, Any], spec: TrunkSpec, score_threshold: float | None) -> DetectorPlan:
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
    _require_pixels("image_size", [stored["image_size"]], *RANGES["image_size"])
    _require_pixels("short_sides", stored["short_sides"], *RANGES["image_size"])
    _require_pixels("long_side", [stored["long_side"]], 32, 100_000)
    if not isinstance(stored["names"], list) or not all(isinstance(name, str) for name in stored["names"]):
        raise ValueError("its names must be a list of texts")
    return DetectorPlan(
        spec, tuple(stored["names"]), kind(**given), stored["image_size"], tuple(stored["short_sides"]), stored["long_side"]
    )


def _require_pixels(name: str, sides: list[Any], low: int, high: int) -> None:
    for side in sides:
        if type(side) is not int or not low <= side <= high:
            raise ValueError(f"its {name} is {short(side)}, not a number of pixels in {low}..{high}")
