"""detector.safetensors: a fine-tuned detector with everything needed to build it again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models.detection import FasterRCNN

from mcl.config.finetune import DetectorSettings
from mcl.data.labels.scenes import Framing
from mcl.detect.detector import build_detector
from mcl.errors import UserError
from mcl.nn.trunk import TrunkSpec

FORMAT_VERSION = 1
FILE_NAME = "detector.safetensors"


@dataclass(frozen=True)
class DetectorPlan:
    """What a detector is built from; ``names`` are its classes in the order of labels, label 1 first."""

    spec: TrunkSpec
    names: tuple[str, ...]
    masks: bool
    settings: DetectorSettings
    image_size: int
    short_sides: tuple[int, ...] = ()
    long_side: int = 1333

    def build(self) -> FasterRCNN:
        """A fresh detector."""
        return build_detector(
            self.spec,
            len(self.names) + 1,
            self.masks,
            self.settings,
            self.image_size,
            self.short_sides,
            self.long_side,
        )

    @property
    def framing(self) -> Framing:
        """How test images are brought to size."""
        return Framing(self.image_size, self.short_sides, self.long_side).without_chance()


def save_detector(path: Path, detector: FasterRCNN, plan: DetectorPlan, metadata: dict[str, Any]) -> None:
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


def load_detector(path: Path, score_threshold: float | None = None) -> tuple[FasterRCNN, DetectorPlan]:
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
    plan = _plan(metadata["plan"], score_threshold)
    detector = plan.build()
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
    settings = DetectorSettings(**stored["settings"])
    if score_threshold is not None:
        settings = settings.model_copy(update={"score_threshold": score_threshold})
    spec = {key: tuple(value) if isinstance(value, list) else value for key, value in stored["spec"].items()}
    return DetectorPlan(
        TrunkSpec(**spec), tuple(stored["names"]), stored["masks"], settings, stored["image_size"],
        tuple(stored["short_sides"]), stored["long_side"],
    )  # fmt: skip
