"""Precision over recall."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from faster_coco_eval.core.faster_eval_api import COCOeval_faster

AT = 0.5  # overlap of the curves of single classes


def precision_recall(evaluator: COCOeval_faster, categories: Mapping[int, str]) -> dict[str, Any]:
    """COCO's curves: at each recall the best precision that is reached there or beyond.

    Args:
        evaluator: that has accumulated, with COCO's ten overlaps.
        categories: id -> name.

    Returns:
        ``recall`` (101,); ``precision`` {"0.50": (101,), ...} the mean over classes at each overlap; ``classes`` {name:
        {"AP50", "precision" (101,), "score" (101,)}} at IoU 0.5, where ``score`` is the lowest one needed for that recall.
        Classes without objects are left out; after the last recall that is reached, precision and score are 0.
    """
    # (overlaps, recalls, classes): all areas, most detections
    precision = np.asarray(evaluator.eval["precision"])[:, :, :, 0, -1]
    scores = np.asarray(evaluator.eval["scores"])[:, :, :, 0, -1]
    measured = [k for k in range(precision.shape[2]) if (precision[:, :, k] > -1).any()]
    overlaps = np.asarray(evaluator.params.iouThrs)
    at = int(np.abs(overlaps - AT).argmin())
    classes = {}
    for k in measured:
        curve = precision[at, :, k]
        classes[categories[int(evaluator.params.catIds[k])]] = {
            "AP50": round(float(curve.mean()), 5), "precision": _rounded(curve), "score": _rounded(scores[at, :, k]),
        }  # fmt: skip
    means = precision[:, :, measured].mean(axis=2) if measured else np.zeros(precision.shape[:2])
    return {
        "recall": _rounded(evaluator.params.recThrs),
        "precision": {f"{overlap:.2f}": _rounded(mean) for overlap, mean in zip(overlaps, means, strict=True)},
        "classes": classes,
    }


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]
