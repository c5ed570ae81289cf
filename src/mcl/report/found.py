"""What a detector found on its test scenes: precision over recall, which class was taken for which, errors by kind.

``mcl finetune`` and ``mcl evaluate`` leave all of it beside ``eval.json``; for folders of older versions it is made of
their predictions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mcl.data.labels.coco_json import CocoScenes, read_coco
from mcl.detect.analysis.confusion import confusion_matrix
from mcl.detect.analysis.curves import precision_recall
from mcl.detect.analysis.error_kinds import KINDS, error_kinds
from mcl.detect.analysis.matches import match_images
from mcl.detect.evaluate import coco_evaluators, ground_truth
from mcl.errors import UserError, printable
from mcl.report.chart import SERIES, Chart, Line, line_chart
from mcl.report.runs import Run
from mcl.report.tables import Cell, Table, share_cell

SURE = 0.3  # score from which on a detection counts in the confusions, as in detections.png
CLASSES = 25  # rows of the table of confusions
CURVES = 20  # classes that have a curve


@dataclass(frozen=True)
class Scenes:
    """The test scenes of a run, or why they cannot be read."""

    scenes: CocoScenes | None
    missing: str = ""


@dataclass(frozen=True)
class Found:
    """``curves.json`` (kind -> curves), ``confusion.json`` and ``errors.json`` (kind -> errors)."""

    curves: Mapping[str, Any]
    confusion: Mapping[str, Any]
    errors: Mapping[str, Any]


@dataclass(frozen=True)
class Confusions:
    """Objects by their class (rows) and what they were taken for (columns).

    Attributes:
        names: of rows and columns.
        counts: (rows, rows) objects.
        missed: objects that nothing was found at.
        invented: detections at which there is nothing, or another detection's object.
        score: of the detections that count, at least.
        left_out: classes that the table has no room for: those with the fewest objects.
    """

    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    missed: tuple[int, ...]
    invented: tuple[int, ...]
    score: float
    left_out: int


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


def found_by(run: Run) -> tuple[Found | None, str]:
    """What a run's detector found, or why it is not known (nothing to say of a run that was not measured)."""
    if not run.numbers:
        return None, ""
    kept = [run.kept(f"{name}.json") for name in ("curves", "confusion", "errors")]
    if all(kept):
        return Found(*kept), ""
    results = {kind: found for kind in ("bbox", "segm") if kind in run.numbers and (found := run.predictions(kind))}
    if "bbox" not in results:
        return None, "Nothing was detected: no curves of precision, no confusions."
    told = scenes_of(run)
    if told.scenes is None:
        return None, f"No curves of precision and no confusions: {printable(told.missing)}"
    return _made(told.scenes, results), ""


def precision_charts(found: Found) -> list[Chart]:
    """Boxes: means over classes at three overlaps; and the classes, the best first."""
    curves = found.curves["bbox"]
    recalls = _percent(curves["recall"])
    overlaps = {"IoU 0.5": curves["precision"]["0.50"], "IoU 0.75": curves["precision"]["0.75"], "mean of IoU 0.5 to 0.95": mean_curve(found)}
    means = [Line(name, recalls, _percent(values), colour=i) for i, (name, values) in enumerate(overlaps.items())]
    axis = {"x_label": "recall, percent", "y_label": "precision, percent", "xlim": (0, 100), "ylim": (0, 102)}
    about = "Of boxes, the mean over classes: the area below the last curve is the AP."
    charts = [line_chart("Precision over recall", means, about, **axis)]
    best = sorted(curves["classes"].items(), key=lambda item: -item[1]["AP50"])
    lines = [
        Line(printable(name), recalls, _percent(curve["precision"]), colour=i % SERIES, dash=i // SERIES)
        for i, (name, curve) in enumerate(best[:CURVES])
    ]
    if len(lines) > 1:
        told = "At IoU 0.5, the best class first" + (f"; the best {CURVES} of {len(best)}." if len(best) > CURVES else ".")
        charts.append(line_chart("Precision over recall, by class", lines, told, **axis))
    return [chart for chart in charts if chart]


def mean_curve(found: Found) -> np.ndarray:
    """(101,) precision of boxes, the mean over classes and over COCO's ten overlaps: its own mean is the AP."""
    return np.mean(list(found.curves["bbox"]["precision"].values()), axis=0)


def confusions(found: Found) -> Confusions:
    """The table, of the classes with the most objects."""
    told = found.confusion
    matrix, missed = np.array(told["matrix"], int), np.array(told["missed"], int)
    objects = matrix.sum(1) + missed
    shown = np.sort(np.argsort(-objects, kind="stable")[:CLASSES])
    counts = tuple(tuple(int(count) for count in row) for row in matrix[np.ix_(shown, shown)])
    pick = [[int(values[k]) for k in shown] for values in (missed, told["false"])]
    names = tuple(printable(told["classes"][k]) for k in shown)
    return Confusions(names, counts, tuple(pick[0]), tuple(pick[1]), told["score"], len(objects) - len(shown))


def errors_table(found: Found) -> Table:
    """What each kind of error costs, and how often it occurs."""
    kinds = [kind for kind in ("bbox", "segm") if kind in found.errors]
    names = {"bbox": "boxes", "segm": "masks"}
    headings = ["error", *(f"AP50 lost, {names[kind]}" for kind in kinds), f"sure boxes ({found.errors['score']} and more)", "all boxes"]
    rows = []
    for kind in KINDS:
        told = found.errors["bbox"][kind]
        counts = [Cell(f"{told[key]:,}", told[key]) for key in ("count_sure", "count")]
        rows.append([Cell(kind), *(share_cell(found.errors[each][kind]["dAP50"]) for each in kinds), *counts])
    about = (
        "Points of AP50 that would be won if errors of one kind alone were mended (TIDE, Bolya et al. 2020): a wrong class, a box that "
        "is off, both, a second box on one object, a box on nothing, an object that was not found."
    )
    return Table(headings, rows, "Errors by kind", about)


def _made(scenes: CocoScenes, results: Mapping[str, list[dict[str, Any]]]) -> Found:
    """As the evaluation makes it."""
    categories = scenes.categories
    curves = {kind: precision_recall(evaluator, categories) for kind, evaluator in coco_evaluators(scenes, results).items()}
    mixed = match_images(ground_truth(scenes, False), results["bbox"], "bbox", by_class=False)
    errors: dict[str, Any] = {"score": SURE}
    for kind, own in results.items():
        errors[kind] = error_kinds(match_images(ground_truth(scenes, kind == "segm"), own, kind), list(categories), SURE)
    return Found(curves, confusion_matrix(mixed, categories, SURE), errors)


def _percent(values: Any) -> list[float]:
    return [100 * float(value) for value in values]
