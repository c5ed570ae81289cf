"""Passes over the training scenes besides training: features of a frozen trunk, BatchNorm statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from mcl.config.finetune import FinetuneSettings
from mcl.data.labels.coco_json import CocoScenes
from mcl.data.labels.sampling import sampling_order
from mcl.data.labels.scenes import CocoDetection, Framing, collate
from mcl.data.labels.stitched import TOGETHER, StitchingCollate, halved
from mcl.data.loading.loader import step_batches
from mcl.data.loading.order import Order
from mcl.detect.base import DetectorPlan
from mcl.detect.feedback import fed_back
from mcl.detect.finetune import DetectorTraining
from mcl.detect.frozen import FeatureStore, FrozenScenes
from mcl.engine.logging import Display, console
from mcl.engine.processes.distributed import broadcast_module, process_count, rank
from mcl.engine.run_folder import RunFolder
from mcl.randomness import STREAM_DETECTION, STREAM_STITCH, seed_for, seeded

CALIBRATION_IMAGES = 200


def training_scenes(settings: FinetuneSettings, plan: DetectorPlan, scenes: CocoScenes) -> CocoDetection:
    """The scenes with the augmentation of training."""
    views = settings.views
    framing = Framing(
        plan.image_size, plan.short_sides, plan.long_side, views.flip, views.scale_jitter, views.colour, views.copy_paste
    )
    return CocoDetection(scenes, plan.names, framing, plan.masks, settings.seed, settings.max_pixels)


def batches_of_steps(
    training: DetectorTraining, settings: FinetuneSettings, plan: DetectorPlan, scenes: CocoScenes, order: Order, total: int
) -> Callable[[int], Iterator[Any]]:
    """What gives the batches of training from a step on; with ``settings.stitch`` the training's feedback chooses them."""
    dataset = training_scenes(settings, plan, scenes)
    source = FrozenScenes(dataset) if training.store else dataset
    common = {
        "workers": settings.loop.workers, "pin_memory": training.device.type == "cuda", "rank": rank(),
        "processes": process_count(),
    }  # fmt: skip

    def regular(start: int) -> Iterator[Any]:
        return step_batches(source, settings.batch, settings.seed, start, total, collate=collate, order=order, **common)

    def stitched(start: int) -> Iterator[Any]:
        # Draws and order of its own: the same scene may come in both streams of an epoch.
        seed = seed_for(STREAM_STITCH, settings.seed)
        quarters = CocoDetection(scenes, plan.names, halved(dataset.framing), plan.masks, seed, settings.max_pixels)
        own = sampling_order(scenes, settings.sampling, settings.repeat_threshold, seed)
        together = StitchingCollate(plan.spec.mean)
        return step_batches(quarters, TOGETHER * settings.batch, seed, start, total, collate=together, order=own, **common)

    if training.feedback is None:
        return regular
    return lambda start: fed_back(training.feedback, regular, stitched)


def encode_once(
    training: DetectorTraining, settings: FinetuneSettings, dataset: CocoDetection, folder: RunFolder
) -> FeatureStore:
    """Features of all scenes by the frozen trunk; the processes share the work."""
    # An untrained trunk's BatchNorm has seen nothing: its statistics at least are measured.
    if settings.calibrate_bn or settings.trunk == "none":
        images = settings.precise_bn_images or CALIBRATION_IMAGES
        layers = _recompute(training, settings, dataset, images, frozen=[])
        console.print(
            f"BatchNorm statistics of {layers} layers measured on the training scenes before freezing"
        )
        # Without loop.sync_bn every process measured its own, and features must come from one trunk.
        broadcast_module(training.detector)
    training.detector.eval()
    with Display("features", len(dataset), 0) as display:
        return FeatureStore(
            training.detector, dataset, settings.views.flip > 0, settings.feature_dtype, folder.path,
            settings.feature_cache_gb, training.device, settings.test_batch, settings.loop.workers, display.advance,
        )  # fmt: skip


def precise_norms(training: DetectorTraining, settings: FinetuneSettings, dataset: CocoDetection) -> None:
    """Measure the BatchNorm statistics of all that was trained at the final weights."""
    source = FrozenScenes(dataset) if training.store else dataset
    layers = _recompute(training, settings, source, settings.precise_bn_images, frozen=training.frozen)
    seen = _passes(settings, settings.precise_bn_images) * settings.batch
    times = f" ({seen} views of them)" if seen > len(dataset) else ""
    console.print(
        f"precise BatchNorm: statistics of {layers} layers over {min(seen, len(dataset))} images{times}"
    )


def _passes(settings: FinetuneSettings, images: int) -> int:
    """Whole batches that come nearest to so many images."""
    return max(1, round(images / settings.batch))


def _recompute(
    training: DetectorTraining, settings: FinetuneSettings, dataset: Any, images: int, frozen: list[nn.Module]
) -> int:
    batches = step_batches(
        dataset, settings.batch, settings.seed, 0, _passes(settings, images), settings.loop.workers, collate, rank=rank(),
        processes=process_count(),
    )  # fmt: skip
    # Boxes are sampled at random in the heads; the seed makes a resumed run end the same.
    with seeded(STREAM_DETECTION, settings.seed):
        return training.recompute_norms(batches, frozen)
