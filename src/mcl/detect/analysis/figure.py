"""evaluation.png: precision-recall curves, confusion matrix and errors by kind on one page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mcl.errors import printable

MOST_CLASSES = 20  # rows of the matrix, curves of classes
PANEL = (5.4, 4.6)  # inches


def draw_evaluation(path: Path, curves: Mapping[str, Any], confusion: Mapping[str, Any], errors: Mapping[str, Any]) -> bool:
    """Draw what ``curves.json``, ``confusion.json`` and ``errors.json`` hold of boxes.

    Returns:
        Whether matplotlib is installed; nothing is drawn without.
    """
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context({"text.parse_math": False}):  # names are no formulas
        figure, axes = pyplot.subplots(1, 3, figsize=(3 * PANEL[0], PANEL[1]), layout="constrained")
        _curves(axes[0], curves)
        _confusion(axes[1], confusion)
        _errors(axes[2], errors)
        figure.savefig(path, dpi=110)
        pyplot.close(figure)
    return True


def _curves(axis: Any, curves: Mapping[str, Any]) -> None:
    classes = sorted(curves["classes"].items(), key=lambda item: -item[1]["AP50"])
    if len(classes) <= MOST_CLASSES:
        for name, curve in classes:
            axis.plot(curves["recall"], curve["precision"], linewidth=0.9, alpha=0.7, label=f"{printable(name)} {100 * curve['AP50']:.0f}")
    for overlap, width in (("0.50", 2.4), ("0.75", 1.6), ("0.90", 1.0)):
        if overlap in curves["precision"]:
            axis.plot(curves["recall"], curves["precision"][overlap], color="black", linewidth=width, label=f"mean, IoU {overlap}")
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title="boxes: precision and recall (classes at IoU 0.5)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, ncols=2 if len(classes) > 8 else 1, loc="lower left", framealpha=0.8)


def _confusion(axis: Any, confusion: Mapping[str, Any]) -> None:
    matrix = np.array(confusion["matrix"])
    whole = np.block([[matrix, np.array(confusion["missed"])[:, None]], [np.array(confusion["false"])[None, :], np.zeros((1, 1), int)]])
    # Of many classes those that most is wrong with.
    wrong = whole.sum(1)[:-1] + whole.sum(0)[:-1] - 2 * np.diag(matrix)
    shown = np.sort(np.argsort(-wrong, kind="stable")[:MOST_CLASSES])
    rows = np.append(shown, len(matrix))
    part = whole[np.ix_(rows, rows)]
    axis.imshow(np.log1p(part), cmap="Blues", aspect="auto")
    names = [printable(confusion["classes"][i])[:16] for i in shown]
    axis.set_xticks(range(len(rows)), [*names, "missed"], rotation=60, ha="right", fontsize=7)
    axis.set_yticks(range(len(rows)), [*names, "nothing"], fontsize=7)
    for (y, x), value in np.ndenumerate(part):
        if value:
            axis.text(x, y, str(value), ha="center", va="center", fontsize=7, color="white" if np.log1p(value) > 0.6 * np.log1p(part.max()) else "black")
    few = f", {len(shown)} of {len(matrix)} classes" if len(shown) < len(matrix) else ""
    axis.set(xlabel="detected", ylabel="annotated", title=f"score {confusion['score']} and more, IoU {confusion['iou']}{few}")


def _errors(axis: Any, errors: Mapping[str, Any]) -> None:
    kinds = [kind for kind in errors if kind != "AP50"]
    costs = [100 * (errors[kind]["dAP50"] or 0) for kind in kinds]
    bars = axis.barh(range(len(kinds)), costs, color="#4c78a8")
    axis.set_yticks(range(len(kinds)), kinds)
    axis.invert_yaxis()
    axis.bar_label(bars, [f"{cost:.1f}  ({errors[kind]['count_sure']})" for kind, cost in zip(kinds, costs, strict=True)], padding=3, fontsize=8)
    axis.set(xlabel="AP50 lost, points (number of sure errors)", xlim=(0, 1.3 * max([*costs, 1])), title=f"errors by kind, AP50 {100 * (errors['AP50'] or 0):.1f}")
