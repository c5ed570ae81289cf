"""Which classes are taken for which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mcl.detect.analysis.matches import FALSE, OVERLAP, ImageMatches


def confusion_matrix(images: Iterable[ImageMatches], categories: Mapping[int, str], score: float) -> dict[str, Any]:
    """Count pairs of what is annotated and what was detected there.

    Args:
        images: matched whatever the class.
        categories: id -> name.
        score: of the detections that count, at least.

    Returns:
        ``classes`` (names), ``matrix`` (row: annotated, column: detected), ``missed`` (objects of each class without a
        detection), ``false`` (detections of each class where nothing is annotated), ``iou`` and ``score``.
    """
    place = {category: i for i, category in enumerate(categories)}
    matrix = np.zeros((len(place), len(place)), int)
    missed, false = np.zeros(len(place), int), np.zeros(len(place), int)
    for image in images:
        image = image.sure(score)
        for result, taken in zip(image.found, image.taken, strict=True):
            if taken >= 0:
                matrix[place[image.truth[taken]["category_id"]], place[result["category_id"]]] += 1
            elif taken == FALSE:
                false[place[result["category_id"]]] += 1
        found = set(image.taken.tolist())
        for i, thing in enumerate(image.truth):
            missed[place[thing["category_id"]]] += i not in found
    return {
        "iou": OVERLAP, "score": score, "classes": list(categories.values()),
        "matrix": matrix.tolist(), "missed": missed.tolist(), "false": false.tolist(),
    }  # fmt: skip
