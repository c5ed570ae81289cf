"""What a fine-tuning starts from: a plan of the detector, a trunk, and the detector with the trunk in it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from mcl.config.finetune import FinetuneSettings, TransformerSettings
from mcl.data.labels.coco_json import CocoScenes
from mcl.detect.base import Detector, DetectorPlan
from mcl.detect.load import load_trunk_into
from mcl.detect.registry import build_detector
from mcl.errors import UserError
from mcl.interop.reading.initial import read_any_trunk
from mcl.nn.described import roi_size_in
from mcl.nn.load_report import LoadReport
from mcl.nn.parts import choose_pieces, parts_of
from mcl.nn.trunk import TrunkSpec
from mcl.randomness import STREAM_WEIGHTS, seeded
from mcl.run.masks import learns_masks

REMEDY = "leave --parts away to take what was trained, or give --allow_partial to start the rest fresh"
SCRATCH_SIZE, SCRATCH_WINDOW = 224, 7


@dataclass(frozen=True)
class Given:
    """A trunk to start from: its tensors (none: from scratch), the pieces it has trained, and what was noted."""

    state: dict[str, torch.Tensor] | None = None
    trained: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


def plan_detector(settings: FinetuneSettings, train: CocoScenes) -> tuple[DetectorPlan, Given]:
    """Shapes from the trunk, ``--like`` or ``--model.*``; and the trunk, if there is one.

    Raises:
        UserError: no trunk there, or annotations that the detector cannot be trained on.
    """
    given, source = Given(), settings.like if settings.trunk == "none" else settings.trunk
    if source is not None:
        spec, tensors, told = read_any_trunk(source, settings.image_size)
        image_size = settings.image_size or spec.image_size
        # Weights from elsewhere do not tell which windows their head knows, if they have one.
        window = SCRATCH_WINDOW if "kind" in told else roi_size_in(told) or spec.window
        notes = [f"{source}: {note}" for note in (told["kind"], *told["notes"])] if "kind" in told else []
        given = Given(tensors if settings.trunk != "none" else None, tuple(told["trained"]), notes)
    else:
        image_size, window = settings.image_size or SCRATCH_SIZE, SCRATCH_WINDOW
        model = settings.model
        spec = TrunkSpec(
            model.backbone, model.pyramid_channels, model.head_convs, image_size, patch_size=model.patch_size or 0
        )
    spec = attending(spec, settings.transformer)
    masks, told_of_masks = learns_masks(settings, train)
    given.notes.extend(told_of_masks)
    try:
        detector = settings.detector.fitted(masks, window)
    except ValueError as error:
        raise UserError(f"--detector.name {settings.detector.name}: {error} (--train {settings.train})") from None
    views = settings.views
    plan = DetectorPlan(
        spec, tuple(train.categories.values()), detector, image_size, tuple(views.short_sides), views.long_side,
        settings.transformer.drop_path,
    )  # fmt: skip
    return plan, given


def attending(spec: TrunkSpec, settings: TransformerSettings) -> TrunkSpec:
    """A spec whose attention is as the settings say; weights do not hang on it.

    Raises:
        UserError: windows for a network that is no plain transformer.
    """
    if settings.attention_window is None:
        return spec
    if not spec.plain:
        raise UserError(f"--transformer.attention_window: {spec.backbone} is no plain transformer")
    return replace(
        spec, attention_window=settings.attention_window, global_blocks=tuple(settings.global_blocks)
    )


def start_detector(
    settings: FinetuneSettings, plan: DetectorPlan, given: Given
) -> tuple[Detector, LoadReport | None]:
    """A detector with fresh values and then the trunk's, and the report of them (none: from scratch).

    Raises:
        UserError: a trunk that does not fit, that was not trained as far as is asked for, or a fresh part to be frozen.
    """
    # The same seed gives fresh parts the same values with and without a trunk.
    with seeded(STREAM_WEIGHTS, settings.seed):
        detector = build_detector(plan)
    if given.state is None:
        return detector, None
    source = f"--trunk {settings.trunk}"
    pieces, _ = choose_pieces(settings.parts, given.trained, source, settings.allow_partial, REMEDY)
    if detector.towers() and "head" not in pieces:
        raise UserError(f"{source}: its head was not trained, so towers cannot start from it (--detector.towers_from_head)")
    report = load_trunk_into(detector, given.state, pieces, source, settings.allow_partial)
    must = {"none": (), "backbone": ("backbone",), "trunk": detector.pieces}[settings.freeze]
    if fresh := [piece for piece in must if piece not in report.pieces]:
        raise UserError(
            f"--freeze {settings.freeze}: {', '.join(fresh)} would start fresh, and a fresh part must not be frozen "
            f"(trained in {settings.trunk}: {parts_of(given.trained)})"
        )
    told = f"{settings.trunk}: {parts_of(given.trained)} trained, {parts_of(report.pieces)} loaded"
    return detector, replace(report, notes=(told, *report.notes))


def what_was_loaded(settings: FinetuneSettings, report: LoadReport | None) -> dict[str, Any]:
    """What the detector started from, for those who read the summary or the detector's file."""
    return {
        "trunk": settings.trunk,
        "parts": parts_of(report.pieces) if report else "none",
        "loaded_share": round(report.covered, 4) if report else 0.0,
    }
