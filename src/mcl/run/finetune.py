"""``mcl finetune``: from annotated scenes and a trunk to a detector's AP."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch

from mcl.config.finetune import FinetuneSchedule, FinetuneSettings
from mcl.data.labels.coco_json import CocoScenes
from mcl.data.labels.sampling import sampling_order
from mcl.data.labels.scenes import collate, require_few_pixels
from mcl.data.loading.loader import steps_per_epoch
from mcl.detect.base import Detector, DetectorPlan
from mcl.detect.feedback import ScaleFeedback, small_side
from mcl.detect.finetune import DetectorTraining
from mcl.detect.frozen import freeze
from mcl.detect.saved import FILE_NAME, save_detector
from mcl.engine.logging import console, warnings_of
from mcl.engine.loop import run_loop
from mcl.engine.machine.allocator import freed_memory_kept
from mcl.engine.machine.device import device_type, prepare_device
from mcl.engine.machine.precision import Format, format_of, is_free
from mcl.engine.optim import Schedule, resolve_length
from mcl.engine.processes.distributed import (
    broadcast_module,
    is_main,
    main_first,
    per_process,
    process_count,
)
from mcl.engine.processes.job import joined
from mcl.engine.run_folder import RunFolder
from mcl.engine.trackers import require_trackers
from mcl.nn.convolution import use_matrix_gradients
from mcl.nn.load_report import LoadReport
from mcl.nn.sync_norm import synchronise_norms
from mcl.run.annotations import class_table, scenes_of, shared_images
from mcl.run.claim import claim_folder
from mcl.run.curve import ApCurve
from mcl.run.detector_start import plan_detector, start_detector, what_was_loaded
from mcl.run.evaluate import check_classes, headline, measure, percent
from mcl.run.forecast import forecast
from mcl.run.guard import guarded
from mcl.run.masks import require_masks
from mcl.run.passes import batches_of_steps, encode_once, precise_norms, training_scenes
from mcl.run.precision import precision_of_run, settle_precision, settled
from mcl.run.resume import start_or_resume, summary_of_ended
from mcl.run.see import tell_report

TITLE = "fine-tune"
# What may change between the parts of a resumed run: it moves or paces things, and trains the same.
MAY_DIFFER = (
    "out",
    "recipe",
    "images",
    "val_images",
    "max_pixels",
    "loop",
    "watch",
    "test_batch",
    "eval_every",
    "best_by",
    "feature_cache_gb",
)
TRIAL_LR = 1e-6  # of the precision trial: diverging numbers cost other time than training does
DEFAULT_STEPS = 600


@guarded
def finetune(settings: FinetuneSettings) -> dict[str, Any]:
    """Train a detector and measure its box and mask AP.

    Writes ``detector.safetensors``, ``predictions.*.json``, ``eval.json``, ``detections.png``,
    ``summary.json`` and the loop's files to ``settings.out``.

    Started by torchrun or srun, the processes share training and testing (docs/scale.md).

    Returns:
        What ``summary.json`` holds: AP, cost, and what was loaded. (On processes other than rank 0, nothing.)

    Raises:
        UserError: bad annotations, a trunk that does not fit, a folder that is not empty.
    """
    with joined(device_type(settings.loop)), freed_memory_kept(settings.loop.keep_memory):
        return _finetune(settings)


def _finetune(settings: FinetuneSettings) -> dict[str, Any]:
    per_process(settings.batch)
    began = time.perf_counter()
    train, val = scenes_of(settings)
    for scenes in (train, val):
        require_few_pixels(scenes, settings.max_pixels)
    plan, given = plan_detector(settings, train)
    require_masks(settings, plan.masks, train, val)
    notes = given.notes + train.notes + val.notes + check_classes(val, plan.names) + shared_images(train, val)
    device = prepare_device(settings.loop)
    require_trackers(settings.loop)
    detector, report = main_first(lambda: start_detector(settings, plan, given))
    if settings.loop.matrix_gradients:
        use_matrix_gradients(detector)
    if settings.dry_run:
        _announce(notes, plan, detector, report)
        console.print(class_table(train, val))
        return _dry_run(settings, plan, detector, train, device)
    folder = claim_folder(settings, "finetune")
    settings = precision_of_run(settings, folder)
    at_step = start_or_resume(folder, settings, MAY_DIFFER, TITLE, len(train.scenes))
    _announce(notes, plan, detector, report)
    console.print(class_table(train, val))
    settings = _settle(settings, plan, detector, train, folder, device)
    broadcast_module(detector.to(device))
    if settings.loop.sync_bn and process_count() > 1:
        synchronise_norms(detector, device.type)
    told = what_was_loaded(settings, report)
    training, curve, cost = _train(settings, plan, detector, train, val, folder, device, told)
    if ended := summary_of_ended(folder, at_step, cost["steps"], FILE_NAME):
        return ended
    training.use_average()
    if settings.precise_bn_images:
        precise_norms(training, settings, training_scenes(settings, plan, train))
    if training.store:
        training.store.close()
    if is_main():
        save_detector(folder.path / FILE_NAME, detector, plan, told)
    broadcast_module(detector)  # without loop.sync_bn every process has measured its own BatchNorm statistics
    numbers = measure(
        detector, plan, val, folder, settings.test_batch, settings.loop.workers, device, settings.max_pixels
    )
    if numbers is None:
        return {}
    cost["total_seconds"] = round(time.perf_counter() - began, 1)
    best = curve.conclude(numbers, cost["steps"])
    summary = {
        "detector": plan.settings.name, **told, "freeze": settings.freeze, "train_images": len(train.scenes),
        **headline(numbers), **({"best": best} if best else {}), "cost": cost, "notes": notes,
        "warnings": warnings_of(folder),
    }  # fmt: skip
    folder.write_json("summary.json", summary)
    _conclude(summary, folder)
    return summary


def _train(
    settings: FinetuneSettings, plan: DetectorPlan, detector: Detector, scenes: CocoScenes, val: CocoScenes,
    folder: RunFolder, device: torch.device, told: Mapping[str, Any],
) -> tuple[DetectorTraining, ApCurve, dict[str, Any]]:  # fmt: skip
    dataset = training_scenes(settings, plan, scenes)
    if settings.loop.channels_last:
        detector.to(memory_format=torch.channels_last)
    frozen = freeze(detector, settings.freeze)
    order = sampling_order(scenes, settings.sampling, settings.repeat_threshold, settings.seed)
    total, warmup = _length(settings, order.samples)
    schedule = Schedule(settings.schedule, settings.optim.peak_lr(settings.batch), total, warmup)
    training = DetectorTraining(
        detector, settings.optim, schedule, settings.batch, device, frozen, precision=settings.loop.precision,
        ema=settings.ema, feedback=_feedback(settings, plan),
    )  # fmt: skip
    if settings.freeze == "trunk":
        training.store = encode_once(training, settings, dataset, folder)
    batches = batches_of_steps(training, settings, plan, scenes, order, total)
    curve = ApCurve(training, plan, scenes, val, settings, folder, total, told)
    summary = run_loop(
        training, batches, total_steps=total, images_per_step=settings.batch, folder=folder,
        settings=settings.loop, watch=settings.watch, resume=settings.resume, title=TITLE,
        images=len(scenes.scenes), seed=settings.seed, advice={"gpu_memory": "try a smaller --batch or --loop.precision bf16"},
        between=curve, ended=curve.ended,
    )  # fmt: skip
    return training, curve, summary.as_dict()


def _feedback(settings: FinetuneSettings, plan: DetectorPlan) -> ScaleFeedback | None:
    stitch = settings.stitch
    return ScaleFeedback(stitch.below, stitch.small or small_side(plan.image_size)) if stitch.below else None


def _length(settings: FinetuneSettings, samples: int) -> tuple[int, int]:
    """(steps, steps of the warm-up)."""
    length = settings.schedule
    if length.steps is None and length.epochs is None:
        length = length.model_copy(update={"steps": DEFAULT_STEPS})
    return resolve_length(length, steps_per_epoch(samples, settings.batch))


def _settle(
    settings: FinetuneSettings, plan: DetectorPlan, detector: Detector, scenes: CocoScenes,
    folder: RunFolder, device: torch.device,
) -> FinetuneSettings:  # fmt: skip
    """Number format and layout decided, by steps of copies of the detector on the first scenes."""
    if not is_free(settings.loop):
        return settings
    if settings.freeze == "trunk":  # its features are computed once
        chosen = format_of(settings.loop)
        return settled(settings, folder, chosen, f"takes {chosen}: the heads alone are no work")
    batch, build = _trial_steps(settings, plan, detector, scenes, device)
    recipe = {
        "trunk": asdict(plan.spec), "detector": plan.settings.model_dump(mode="json"), "classes": len(plan.names),
        "image_size": plan.image_size, "views": settings.views.model_dump(mode="json"), "batch": len(batch[0]),
        "freeze": settings.freeze, "optimizer": settings.optim.name,
    }  # fmt: skip
    order = sampling_order(scenes, settings.sampling, settings.repeat_threshold, settings.seed)
    return settle_precision(settings, folder, device, build, recipe, _length(settings, order.samples)[0])


def _dry_run(
    settings: FinetuneSettings, plan: DetectorPlan, detector: Detector, scenes: CocoScenes, device: torch.device
) -> dict[str, Any]:
    order = sampling_order(scenes, settings.sampling, settings.repeat_threshold, settings.seed)
    _, build = _trial_steps(settings, plan, detector, scenes, device)
    if settings.freeze == "trunk":
        console.print("a frozen trunk's features are computed once: steps will be quicker than told here")
    total = _length(settings, order.samples)[0]
    return forecast(settings, build(format_of(settings.loop)), total, per_process(settings.batch), device)


def _trial_steps(
    settings: FinetuneSettings, plan: DetectorPlan, detector: Detector, scenes: CocoScenes, device: torch.device
) -> tuple[Any, Callable[[Format], Callable[[], Any]]]:
    """The first scenes as a batch, and what gives, for a format, a step on them by a copy of the detector."""
    dataset = training_scenes(settings, plan, scenes)
    batch = collate([dataset[0, i % len(dataset)] for i in range(per_process(settings.batch))])

    def build(chosen: Format) -> Callable[[], Any]:
        twin = copy.deepcopy(detector).to(device)
        if chosen.channels_last:
            twin.to(memory_format=torch.channels_last)
        frozen = freeze(twin, settings.freeze)
        rate = Schedule(FinetuneSchedule(decay="constant"), TRIAL_LR, 1, 0)
        training = DetectorTraining(
            twin, settings.optim, rate, settings.batch, device, frozen, precision=chosen.precision
        )
        return lambda: training.train_step(batch, 0)

    return batch, build


def _announce(notes: list[str], plan: DetectorPlan, detector: Detector, report: LoadReport | None) -> None:
    console.print(
        f"{plan.settings.title} on {plan.spec.backbone}, {len(plan.names)} classes, {plan.image_size} px, {detector.sizes()}",
        markup=False,
    )
    for line in [*notes, *(report.lines() if report else ["from scratch: nothing is loaded"])]:
        console.print(line, markup=False)


def _conclude(summary: dict[str, Any], folder: RunFolder) -> None:
    cost, masks = summary["cost"], ""
    if summary["mask_AP"] is not None:
        masks = f", mask AP {percent(summary['mask_AP'])}"
    spent = f"{cost['images']:,} images in {cost['seconds']:.0f} s of training"
    line = f"box AP {percent(summary['box_AP'])}{masks} after {spent} ({cost['total_seconds']:.0f} s in all)"
    console.print(f"{line}; {folder.path}", markup=False)
    tell_report(folder.path)
