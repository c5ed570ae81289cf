"""``mcl evaluate``, and the measuring at the end of ``mcl finetune``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from mcl.config.base import dump
from mcl.config.finetune import EvaluateSettings
from mcl.config.optim import LoopSettings
from mcl.config.saved import with_absolute_paths
from mcl.data.labels.coco_json import CocoScenes
from mcl.data.labels.scenes import CocoDetection, require_few_pixels
from mcl.detect.base import Detector, DetectorPlan
from mcl.detect.evaluate import coco_evaluators, coco_numbers, predict
from mcl.detect.figure import save_detections
from mcl.detect.saved import load_detector
from mcl.engine.logging import Display, console
from mcl.engine.machine.device import device_type, prepare_device
from mcl.engine.processes.job import joined
from mcl.engine.run_folder import CONFIG, RunFolder
from mcl.errors import UserError, printable
from mcl.run.analysis import errors_table, write_analysis
from mcl.run.annotations import count_classes, scenes_of
from mcl.run.claim import claim_folder
from mcl.run.guard import guarded
from mcl.run.masks import measures_masks
from mcl.run.see import tell_report

# Numbers of a data set's own beside COCO's -> their title, and whether they are of boxes or masks.
OFFICIAL = {"voc": ("VOC", "bbox"), "cityscapes": ("Cityscapes", "segm")}


@guarded
def evaluate(settings: EvaluateSettings) -> dict[str, Any]:
    """Measure a fine-tuned detector on a COCO JSON.

    Writes ``predictions.bbox.json`` (and ``.segm.json``), ``eval.json``, ``detections.png``, what ``write_analysis``
    writes, and ``summary.json`` to ``settings.out``.

    Started by torchrun or srun, the processes share the images (docs/scale.md).

    Returns:
        What ``summary.json`` holds. (On processes other than rank 0, nothing.)

    Raises:
        UserError: bad annotations, no detector there, or no class in common.
    """
    loop = LoopSettings(device=settings.device, threads=settings.threads)
    with joined(device_type(loop)):
        return _evaluate(settings, loop)


def _evaluate(settings: EvaluateSettings, loop: LoopSettings) -> dict[str, Any]:
    (scenes,) = scenes_of(settings)
    require_few_pixels(scenes, settings.max_pixels)
    device = prepare_device(loop)
    detector, plan = load_detector(settings.detector, settings.score_threshold)
    notes = scenes.notes + check_classes(scenes, plan.names)
    folder = claim_folder(settings, "evaluate")
    folder.write_text(CONFIG, dump(with_absolute_paths(settings)))
    for note in notes:
        console.print(note, markup=False)
    numbers = measure(
        detector.to(device), plan, scenes, folder, settings.batch, settings.workers, device, settings.max_pixels
    )
    if numbers is None:
        return {}
    summary = {
        "detector": str(settings.detector),
        "val": str(settings.val),
        "notes": notes,
        **headline(numbers),
    }
    folder.write_json("summary.json", summary)
    tell_report(folder.path)
    return summary


def measure(
    detector: Detector, plan: DetectorPlan, scenes: CocoScenes, folder: RunFolder, batch: int, workers: int,
    device: torch.device, max_pixels: int | None = None,
) -> dict[str, Any] | None:  # fmt: skip
    """Run the detector on every scene, write predictions, numbers and picture, print the table.

    Returns:
        ``coco_numbers`` with ``seconds`` and ``images``; none on processes other than rank 0.
    """
    started = time.perf_counter()
    still = CocoDetection(scenes, plan.names, plan.framing, masks=False, max_pixels=max_pixels)
    with Display("test", len(scenes.scenes), 0) as display:
        results = predict(detector, still, list(plan.names), batch, workers, device, display.advance)
    if results is None:
        return None
    if not measures_masks(scenes):
        results.pop("segm", None)
    evaluators = coco_evaluators(scenes, results)
    numbers = coco_numbers(scenes, results, evaluators)
    numbers["instances"] = {name: boxes for name, (_, boxes) in count_classes(scenes).items()}
    numbers |= {"images": len(scenes.scenes), "seconds": round(time.perf_counter() - started, 1)}
    for kind, found in results.items():
        _write_results(folder.path / f"predictions.{kind}.json", found)
    folder.write_json("eval.json", numbers)
    save_detections(folder.path / "detections.png", scenes, results, max_pixels)
    errors = write_analysis(folder, scenes, results, evaluators, max_pixels)
    console.print(numbers_table(numbers), errors_table(errors))
    return numbers


def check_classes(scenes: CocoScenes, names: tuple[str, ...]) -> list[str]:
    """Notes on classes that only one side knows (classes are matched by name).

    Raises:
        UserError: no class in common.
    """
    theirs, ours = list(scenes.categories.values()), set(names)
    if not ours & set(theirs):
        raise UserError(
            f"{scenes.path}: no category in common: it has {theirs[:5]}, the detector knows {list(names)[:5]}"
        )
    unknown = [name for name in theirs if name not in ours]
    if not unknown:
        return []
    return [f"{scenes.path.name}: the detector knows no {', '.join(map(repr, unknown[:5]))}: AP 0 there"]


def headline(numbers: dict[str, Any]) -> dict[str, Any]:
    """The few numbers one compares runs by."""
    box, mask = numbers["bbox"], numbers.get("segm", {})
    return {
        "box_AP": box["AP"], "box_AP50": box["AP50"],
        "mask_AP": mask.get("AP"), "mask_AP50": mask.get("AP50"),
        "class_agnostic_AP": numbers["class_agnostic_AP"], "test_images": numbers["images"],
        "test_seconds": numbers["seconds"],
        **{
            f"{own}_{key}": value
            for own in OFFICIAL
            for key, value in numbers.get(own, {}).items()
            if key != "per_class"
        },
    }  # fmt: skip


def numbers_table(numbers: dict[str, Any]) -> Table:
    """COCO's (or LVIS's) numbers, the data set's own and the AP of each class, in percent."""
    kinds = [kind for kind in ("bbox", "segm") if kind in numbers]
    whose = "LVIS" if "AP_rare" in numbers["bbox"] else "COCO"
    table = Table(title=f"{whose} numbers in percent, {numbers['images']} images", title_justify="left")
    table.add_column("")
    for kind in kinds:
        table.add_column({"bbox": "boxes", "segm": "masks"}[kind], justify="right")
    table.add_column("instances", justify="right")
    for name in (key for key, value in numbers["bbox"].items() if not isinstance(value, dict)):
        table.add_row(name, *(percent(numbers[kind][name]) for kind in kinds))
    table.add_row(
        "AP, classes as one",
        percent(numbers["class_agnostic_AP"]),
        *[""] * len(kinds),
        end_section=True,
    )
    for overlap in numbers["bbox"]["by_iou"]:
        last = overlap == [*numbers["bbox"]["by_iou"]][-1]
        table.add_row(f"AP, IoU {overlap}", *(percent(numbers[kind]["by_iou"][overlap]) for kind in kinds), end_section=last)
    for own, (title, kind) in OFFICIAL.items():
        for key in (key for key in numbers.get(own, {}) if key != "per_class"):
            values = [percent(numbers[own][key]) if shown == kind else "" for shown in kinds]
            table.add_row(f"{title} {key.replace('_11point', ', 11 points')}", *values, "", end_section=key == list(numbers[own])[-2])
    classes = numbers["bbox"]["per_class"]
    for name in sorted(classes, key=lambda name: -(classes[name] or 0))[:20]:
        found = [percent(numbers[kind]["per_class"][name]) for kind in kinds]
        table.add_row(f"AP {printable(name)}", *found, f"{numbers['instances'][name]:,}")
    if len(classes) > 20:
        table.caption = f"the best 20 of {len(classes)} classes; all are in eval.json"
    return table


def percent(value: float | None) -> str:
    """``0.4251 -> '42.5'``; a dash for what could not be measured."""
    return "-" if value is None else f"{100 * value:.1f}"


def _write_results(path: Path, results: list[dict[str, Any]]) -> None:
    import json

    path.write_text("[\n" + ",\n".join(json.dumps(result) for result in results) + "\n]\n", "utf-8")
