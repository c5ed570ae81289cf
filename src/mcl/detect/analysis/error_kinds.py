"""Errors by kind, and what each kind costs in AP50: TIDE (Bolya et al. 2020, "A general toolbox for identifying object
detection errors").

A false detection is, in this order (t_f = 0.5, t_b = 0.1; IoU with its best object):

- localisation: the right class, t_b <= IoU <= t_f;
- classification: a wrong class, IoU >= t_f;
- duplicate: the right class, IoU >= t_f, and a better detection has that object;
- background: IoU <= t_b with every object;
- both: what is left, a wrong class and t_b < IoU < t_f.

Missed is an object that no detection has found, nor would if a classification or localisation error were mended.

dAP50 of a kind is what AP50 gains if an oracle mends that kind alone: the best of those detections that were wrong about an
object in their place or class finds it, all other false ones of the kind go away, and missed objects are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mcl.detect.analysis.matches import FALSE, IGNORED, ImageMatches

KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
MENDED = ("classification", "localisation")  # their detections may find an object
FOREGROUND, BACKGROUND = 0.5, 0.1
RECALLS = np.linspace(0, 1, 101)


@dataclass
class _Points:
    """Detections that count: scores, whether they are true, and by which kind they are false."""

    score: list[float] = field(default_factory=list)
    category: list[int] = field(default_factory=list)
    true: list[bool] = field(default_factory=list)
    kind: list[str] = field(default_factory=list)  # "" of a true one
    mended: list[int | None] = field(default_factory=list)  # the class it has once it is mended; None: it goes away

    def add(self, result: dict[str, Any], kind: str, mended: int | None = None) -> None:
        self.score.append(result["score"])
        self.category.append(result["category_id"])
        self.true.append(not kind)
        self.kind.append(kind)
        self.mended.append(mended)


def error_kinds(images: Iterable[ImageMatches], categories: Sequence[int], sure_score: float) -> dict[str, Any]:
    """Errors of a data set by kind.

    Args:
        images: matched by class.
        categories: ids of all classes.
        sure_score: detections of at least this score are counted in ``count_sure``; objects that none of them has
            found count as missed there.

    Returns:
        ``{"AP50": 0..1, kind: {"dAP50": 0..1, "count": n, "count_sure": n}, ...}`` for the six ``KINDS``; AP50 is None
        without objects.
    """
    images = list(images)
    points, missed = _points(images)
    sure, sure_missed = _points([image.sure(sure_score) for image in images])
    positives = dict.fromkeys(categories, 0)
    for image in images:
        for thing in image.truth:
            positives[thing["category_id"]] += 1
    if not any(positives.values()):
        return {"AP50": None, **{kind: {"dAP50": None, "count": points.kind.count(kind), "count_sure": 0} for kind in KINDS}}
    now = _mean_ap(points, positives)
    told: dict[str, Any] = {"AP50": round(now, 5)}
    for kind in KINDS:
        left = positives if kind != "missed" else {c: n - missed.count(c) for c, n in positives.items()}
        gain = max(0.0, _mean_ap(points, left, mend=kind) - now)
        several = (len(missed), len(sure_missed)) if kind == "missed" else (points.kind.count(kind), sure.kind.count(kind))
        told[kind] = {"dAP50": round(gain, 5), "count": several[0], "count_sure": several[1]}
    return told


def kinds_of_image(image: ImageMatches) -> tuple[list[str], list[int]]:
    """Kind of every detection ("" of a true or ignored one), and the object it would find if mended (-1: none).

    An object that is found already is no target.
    """
    same, overlaps = image.same_class, image.overlaps
    unfound = np.ones(len(image.truth), bool)
    unfound[image.taken[image.taken >= 0]] = False
    kinds, targets = [], []
    for i, taken in enumerate(image.taken):
        kind, target = ("", -1) if taken != FALSE else _kind(overlaps[i], same[i])
        kinds.append(kind)
        targets.append(target if target >= 0 and unfound[target] else -1)
    return kinds, targets


def _kind(overlaps: np.ndarray, same: np.ndarray) -> tuple[str, int]:
    own, other = overlaps * same, overlaps * ~same
    if not len(overlaps) or overlaps.max() <= 0:
        return "background", -1
    if BACKGROUND <= own.max() <= FOREGROUND:
        return "localisation", int(own.argmax())
    if other.max() >= FOREGROUND:
        return "classification", int(other.argmax())
    if own.max() >= FOREGROUND:
        return "duplicate", -1
    return ("background" if overlaps.max() <= BACKGROUND else "both"), -1


def _points(images: Sequence[ImageMatches]) -> tuple[_Points, list[int]]:
    """What AP is made of, and the classes of missed objects."""
    points, missed = _Points(), []
    for image in images:
        kinds, targets = kinds_of_image(image)
        found = set(image.taken.tolist())
        given = set()  # objects that a better detection would find
        for result, taken, kind, target in zip(image.found, image.taken, kinds, targets, strict=True):
            if taken == IGNORED:
                continue
            first = target >= 0 and target not in given
            given.add(target)
            points.add(result, kind, image.truth[target]["category_id"] if first else None)
        missed += [thing["category_id"] for i, thing in enumerate(image.truth) if i not in found | given]
    return points, missed


def _mean_ap(points: _Points, positives: dict[int, int], mend: str = "") -> float:
    """AP50 over the classes that have objects, with the errors of a kind mended; 1 where nothing is to be found."""
    score, true = np.array(points.score), np.array(points.true, bool)
    category, keep = np.array(points.category, int), np.ones(len(score), bool)
    for i, kind in enumerate(points.kind if mend else ()):
        if kind == mend:
            keep[i] = true[i] = points.mended[i] is not None
            category[i] = points.mended[i] if keep[i] else category[i]
    each = [
        average_precision(score[keep & (category == c)], true[keep & (category == c)], count)
        for c, count in positives.items()
        if count
    ]
    return float(np.mean(each)) if each else 1.0


def average_precision(scores: np.ndarray, true: np.ndarray, positives: int) -> float:
    """COCO's AP: precision, made monotonous from the right, averaged over 101 recalls.

    Args:
        scores, true: (n,) of the detections of a class.
        positives: objects of the class, at least 1.
    """
    order = np.argsort(-scores, kind="mergesort")
    hits = np.cumsum(true[order])
    precision = hits / np.arange(1, len(hits) + 1)
    best_from = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(hits / positives, RECALLS, side="left")
    return float(np.append(best_from, 0.0)[place].mean())
