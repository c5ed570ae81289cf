"""VOC's average precision: over all points of the curve (from 2010 on) and at 11 points (2007)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mcl.data.labels.coco_json import CocoScenes, SceneObject

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
ELEVEN = np.linspace(0, 1, 11)


def voc_numbers(scenes: CocoScenes, boxes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """VOC's AP of results in COCO's format.

    A detection takes the object of its class that it overlaps most; at ``IoU >= threshold`` it is right if it is the
    first to take that object, wrong if it is not, and does not count if the object is difficult.

    Returns:
        ``AP50``, ``AP75`` and ``AP`` (mean over IoU 0.5, 0.55 .. 0.95) over all points, the same with ``_11point``, and
        ``per_class`` of AP50; from 0 to 1, None where no class has an object. Classes without any are left out.
    """
    truth: dict[int, dict[int, list[SceneObject]]] = defaultdict(lambda: defaultdict(list))
    for scene in scenes.scenes:
        for thing in scene.objects:
            truth[thing.category][scene.id].append(thing)
    found: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for result in boxes:
        found[result["category_id"]].append(result)
    classes = [i for i in scenes.categories if any(not t.difficult for ts in truth[i].values() for t in ts)]
    curves = {i: _curves(truth[i], found[i]) for i in classes}
    numbers: dict[str, Any] = {}
    for suffix, area in (("", area_under), ("_11point", at_eleven)):
        table = np.array([[area(*curve) for curve in curves[i]] for i in classes]).reshape(-1, len(THRESHOLDS))
        numbers |= {f"AP{suffix}": _mean(table), f"AP50{suffix}": _mean(table[:, 0]), f"AP75{suffix}": _mean(table[:, 5])}
    numbers["per_class"] = {scenes.categories[i]: round(float(area_under(*curves[i][0])), 5) for i in classes}
    return numbers


def area_under(recall: np.ndarray, precision: np.ndarray) -> float:
    """Area under the curve, each precision raised to the best at that recall or more."""
    recall = np.concatenate([[0.0], recall, [1.0]])
    raised = np.maximum.accumulate(np.concatenate([[0.0], precision, [0.0]])[::-1])[::-1]
    return float(np.sum(np.diff(recall) * raised[1:]))


def at_eleven(recall: np.ndarray, precision: np.ndarray) -> float:
    """Mean over recall 0, 0.1 .. 1 of the best precision at that recall or more."""
    # Recalls are counts over counts: 0.3 from linspace may lie a rounding above 3 / 10.
    return float(np.mean([precision[recall >= level - 1e-12].max(initial=0.0) for level in ELEVEN]))


def _curves(
    truth: Mapping[int, list[SceneObject]], found: list[Mapping[str, Any]]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(recall, precision) after each detection that counts, best first; one pair a threshold."""
    asked = sum(not thing.difficult for things in truth.values() for thing in things)
    ranked = sorted(found, key=lambda result: -result["score"])
    nearest = [_nearest(result, truth.get(result["image_id"], [])) for result in ranked]
    curves = []
    for threshold in THRESHOLDS:
        taken, right = set(), []
        for result, (overlap, position) in zip(ranked, nearest, strict=True):
            key = (result["image_id"], position)
            if overlap < threshold:
                right.append(False)
            elif not truth[result["image_id"]][position].difficult:
                right.append(key not in taken)
                taken.add(key)
        hits = np.cumsum(right, dtype=np.float64)
        curves.append((hits / asked, hits / np.arange(1, len(right) + 1)))
    return curves


def _nearest(result: Mapping[str, Any], things: list[SceneObject]) -> tuple[float, int]:
    """(IoU, position) of the object that a box overlaps most; (-1, -1) where there is none."""
    if not things:
        return -1.0, -1
    x, y, w, h = result["bbox"]
    boxes = np.array([thing.box for thing in things])
    sides = np.minimum(boxes[:, 2:], [x + w, y + h]) - np.maximum(boxes[:, :2], [x, y])
    shared = np.prod(np.maximum(sides, 0), axis=1)
    overlap = shared / (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) + w * h - shared)
    best = int(overlap.argmax())
    return float(overlap[best]), best


def _mean(values: np.ndarray) -> float | None:
    return round(float(values.mean()), 5) if values.size else None
