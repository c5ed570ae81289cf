"""What a detector found on its test scenes: precision over recall, and which class was taken for which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO
from faster_coco_eval.core.faster_eval_api import COCOeval_faster
from faster_coco_eval.extra import PreviewResults

from mcl.data.labels.coco_json import CocoScenes, read_coco
from mcl.detect.evaluate import ground_truth
from mcl.errors import UserError, printable
from mcl.report.chart import Chart, Line, line_chart
from mcl.report.runs import Run

SURE = 0.3  # score from which on a detection counts in the confusions, as in detections.png
OVERLAP = 0.5  # IoU from which on a detection is of an object
CLASSES = 25  # rows of the table of confusions; curves of classes: as many as there are colours


@dataclass(frozen=True)
class Scenes:
    """The test scenes of a run, or why they cannot be read."""

    scenes: CocoScenes | None
    missing: str = ""


@dataclass(frozen=True)
class Confusions:
    """Objects by their class (rows) and what they were taken for (columns), of detections with ``SURE`` and more.

    Attributes:
        names: of rows and columns.
        counts: (rows, rows) objects.
        missed: objects that nothing was found at.
        invented: detections at which there is nothing, or another detection's object, or a crowd.
        left_out: classes that the table has no room for: those with the fewest objects.
    """

    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    missed: tuple[int, ...]
    invented: tuple[int, ...]
    left_out: int = 0


def scenes_of(run: Run) -> Scenes:
    """The annotations that a run was measured on."""
    settings = run.settings
    root = settings.get("val_images") or settings.get("images")
    try:
        return Scenes(_read(Path(settings["val"]), Path(root), float(settings.get("max_missing") or 0)))
    except UserError as error:
        return Scenes(None, str(error))


@lru_cache(maxsize=4)
def _read(path: Path, root: Path, max_missing: float) -> CocoScenes:
    return read_coco(path, root, max_missing)


@dataclass(frozen=True)
class Precisions:
    """Interpolated precision at COCO's 101 recalls, all areas, at most 100 detections an image.

    Attributes:
        recalls: (101,) in percent.
        mean: IoU in percent -> (101,) mean over classes, in percent; ``0`` is the mean over 50, 55 .. 95.
        classes: name -> (101,) at IoU 50.
    """

    recalls: np.ndarray
    mean: dict[int, np.ndarray]
    classes: dict[str, np.ndarray]


def precisions(scenes: CocoScenes, results: Sequence[Mapping[str, Any]], kind: str = "bbox") -> Precisions:
    """Match detections as COCO does.

    Args:
        results: in COCO's format.
        kind: ``bbox`` or ``segm``.
    """
    reference = COCO(ground_truth(scenes, masks=kind == "segm"))
    evaluator = COCOeval_faster(reference, reference.loadRes([dict(one) for one in results]), kind)
    evaluator.print_function = lambda *_: None
    evaluator.evaluate()
    evaluator.accumulate()
    # (IoU thresholds, recalls, classes, areas, detections); -1: no object of that class
    values = np.asarray(evaluator.eval["precision"])[:, :, :, 0, -1]
    there = [k for k in range(values.shape[2]) if (values[:, :, k] > -1).any()]
    kept = 100 * values[:, :, there]
    names = [scenes.categories[evaluator.params.catIds[k]] for k in there]
    mean = {0: kept.mean((0, 2)), 50: kept[0].mean(1), 75: kept[5].mean(1)}
    recalls = 100 * np.asarray(evaluator.params.recThrs)
    return Precisions(recalls, mean, {name: kept[0, :, k] for k, name in enumerate(names)})


def precision_charts(found: Precisions) -> list[Chart]:
    """Means over classes at three overlaps; and the classes, if not too many."""
    recalls = list(found.recalls)
    overlaps = {50: "IoU 0.5", 75: "IoU 0.75", 0: "mean of IoU 0.5 to 0.95"}
    means = [Line(name, recalls, list(found.mean[key]), colour=i) for i, (key, name) in enumerate(overlaps.items())]
    axis = {"x_label": "recall, percent", "y_label": "precision, percent", "xlim": (0, 100), "ylim": (0, 102)}
    about = "Of boxes, the mean over classes: the area below the last curve is the AP."
    charts = [line_chart("Precision over recall", means, about, **axis)]
    best = sorted(found.classes, key=lambda name: -found.classes[name].mean())
    lines = [
        Line(printable(name), recalls, list(found.classes[name]), colour=i % 10, dash=i // 10)
        for i, name in enumerate(best[:20])
    ]
    if len(lines) > 1:
        told = "At IoU 0.5, the best class first" + (f"; the best 20 of {len(best)}." if len(best) > 20 else ".")
        charts.append(line_chart("Precision over recall, by class", lines, told, **axis))
    return [chart for chart in charts if chart]


def confusions(scenes: CocoScenes, boxes: Sequence[Mapping[str, Any]]) -> Confusions:
    """Pair objects and detections of any class, the surest first, and count their classes."""
    truth = ground_truth(scenes, masks=False)
    truth["annotations"] = [one for one in truth["annotations"] if not one["iscrowd"]]
    reference = COCO(truth)
    sure = [dict(box) for box in boxes if box["score"] >= SURE]
    ids = list(reference.cats)
    objects = {i: len(reference.getAnnIds(catIds=[i])) for i in ids}
    if sure:
        paired = PreviewResults(reference, reference.loadRes(sure), iou_tresh=OVERLAP, useCats=False)
        table = paired.compute_confusion_matrix().astype(int)
    else:  # columns: classes, invented, missed
        table = np.array([[0] * (len(ids) + 1) + [objects[i]] for i in ids])
    shown = sorted(sorted(range(len(ids)), key=lambda k: -objects[ids[k]])[:CLASSES])
    counts = tuple(tuple(int(table[row, column]) for column in shown) for row in shown)
    names = tuple(printable(scenes.categories[ids[k]]) for k in shown)
    missed, invented = (tuple(int(table[k, column]) for k in shown) for column in (-1, -2))
    return Confusions(names, counts, missed, invented, len(ids) - len(shown))
