"""Cityscapes' instance AP: masks, IoU above 0.5 .. 0.95, objects of at least 100 pixels; void and groups do not count."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco_mask

from mcl.data.labels.coco_json import CocoScenes, Scene

THRESHOLDS = np.arange(0.5, 1.0, 0.05)  # the official numbers, roundings included
FEWEST = 100  # pixels of an object that is asked for


@dataclass
class Found:
    """A detection: score, pixels, and the pixels that it shares with void and with objects of its class."""

    score: float
    area: float
    void: float
    shared: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """An object of a class in an image; a group, or one that is too small, is neither asked for nor wrong."""

    area: float
    counts: bool
    group: bool


Pair = tuple[list[Asked], list[Found]]  # of one class in one image


def cityscapes_numbers(scenes: CocoScenes, masks: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Cityscapes' AP of masks in COCO's results format.

    Unlike COCO's, every detection may take every object of its class that it overlaps by more than the threshold (at
    half and more, it is one), and a detection is passed over if more than that share of it lies on void or groups.

    Returns:
        ``AP``, ``AP50`` and ``per_class`` of AP; from 0 to 1, None where there is nothing to measure.
    """
    found: dict[tuple[int, int], list[Mapping[str, Any]]] = defaultdict(list)
    for result in masks:
        found[result["image_id"], result["category_id"]].append(result)
    pairs: dict[int, list[Pair]] = {i: [] for i in scenes.categories}
    for scene in scenes.scenes:
        for i in scenes.categories:
            pairs[i].append(_pair(scene, i, found[scene.id, i]))
    table = np.array([[_ap(pairs[i], threshold) for threshold in THRESHOLDS] for i in scenes.categories])
    return {
        "AP": _mean(table), "AP50": _mean(table[:, 0]),
        "per_class": {name: _mean(row) for name, row in zip(scenes.categories.values(), table, strict=True)},
    }  # fmt: skip


def _pair(scene: Scene, category: int, results: list[Mapping[str, Any]]) -> Pair:
    things = [thing for thing in scene.objects if thing.category == category]
    asked = [Asked(thing.area, thing.area >= FEWEST and not thing.crowd, thing.crowd) for thing in things]
    if not results:
        return asked, []
    rles = [result["segmentation"] for result in results]
    areas = coco_mask.area(rles).astype(float)
    void = _shared(rles, areas, scene.extra["void"]) if "void" in scene.extra else np.zeros(len(rles))
    shared = np.stack([_shared(rles, areas, _rle(thing.segmentation, scene)) for thing in things]) if things else None
    found = []
    for k, result in enumerate(results):
        if areas[k] > 0:
            overlaps = {} if shared is None else {j: v for j, v in enumerate(shared[:, k].tolist()) if v > 0}
            found.append(Found(float(result["score"]), float(areas[k]), float(void[k]), overlaps))
    return asked, found


def _shared(rles: list[dict[str, Any]], areas: np.ndarray, region: dict[str, Any]) -> np.ndarray:
    """Pixels that each mask shares with a region: IoU with a "crowd" is the share of the mask that lies in it."""
    return np.rint(np.asarray(coco_mask.iou(rles, [region], [1])).reshape(-1) * areas)


def _rle(segmentation: Any, scene: Scene) -> dict[str, Any]:
    return coco_mask.merge(coco_mask.frPyObjects(segmentation, scene.height, scene.width)) if isinstance(
        segmentation, list
    ) else _compressed(segmentation, scene)  # fmt: skip


def _compressed(rle: dict[str, Any], scene: Scene) -> dict[str, Any]:
    if isinstance(rle["counts"], list):
        return coco_mask.frPyObjects(rle, scene.height, scene.width)
    return rle


def _ap(pairs: list[Pair], threshold: float) -> float:
    """AP of a class at one threshold; NaN without an object to find."""
    right: list[bool] = []
    scores: list[float] = []
    missed = 0
    for asked, found in pairs:
        wanted = [k for k, one in enumerate(asked) if one.counts]
        for k in wanted:
            takers = sorted((f.score for f in found if _overlap(f, asked, k) > threshold), reverse=True)
            missed += not takers
            scores += takers
            right += [True, *[False] * (len(takers) - 1)] if takers else []
        for one in found:
            # Whatever takes an object, asked for or not, is no false alarm.
            if any(_overlap(one, asked, k) > threshold for k in one.shared):
                continue
            passed_over = one.void + sum(
                area * (asked[k].group + (asked[k].area < FEWEST)) for k, area in one.shared.items()
            )
            if passed_over / one.area <= threshold:
                scores.append(one.score)
                right.append(False)
    if not any(one.counts for asked, _ in pairs for one in asked):
        return float("nan")
    if not any(found for _, found in pairs):
        return 0.0
    return _area(np.array(right, bool), np.array(scores), missed)


def _overlap(found: Found, asked: list[Asked], k: int) -> float:
    shared = found.shared.get(k, 0.0)
    return shared / (asked[k].area + found.area - shared)


def _area(right: np.ndarray, scores: np.ndarray, missed: int) -> float:
    """Under the curve of precision by recall, stepwise: half of the way to both neighbours belongs to each point."""
    if not len(scores):
        return 0.0
    order = np.argsort(scores, kind="stable")
    _, first = np.unique(scores[order], return_index=True)  # of each score among the rising ones
    hits = right.sum() - np.concatenate([[0], np.cumsum(right[order])])[first]
    precision = np.append(hits / (len(scores) - first), 1.0)
    recall = np.append(hits / max(right.sum() + missed, 1), 0.0)
    padded = np.concatenate([recall[:1], recall, [0.0]])
    return float(precision @ (padded[:-2] - padded[2:]) / 2)


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return round(float(known.mean()), 5) if known.size else None
