"""LVIS's AP: 300 detections an image, judged only for classes that were looked for in it; by frequency of the class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from faster_coco_eval import COCO
from faster_coco_eval.core.faster_eval_api import COCOeval_faster

MOST = 300  # detections an image
# faster-coco-eval's names -> ours
NUMBERS = {
    "AP_all": "AP", "AP_50": "AP50", "AP_75": "AP75", "AP_small": "AP_small", "AP_medium": "AP_medium",
    "AP_large": "AP_large", "APr": "AP_rare", "APc": "AP_common", "APf": "AP_frequent", "AR_all": "AR300",
}  # fmt: skip


def lvis_evaluator(truth: Mapping[str, Any], results: Iterable[Mapping[str, Any]], kind: str) -> COCOeval_faster:
    """An evaluator that has run.

    Args:
        truth: COCO dictionary with LVIS's keys (``mcl.data.labels.contract``).
        results: in COCO's results format; those of an image beyond its best 300 are dropped, then those of classes that
            were not looked for in it.
        kind: ``bbox`` or ``segm``.
    """
    reference = COCO(dict(truth))
    evaluator = COCOeval_faster(
        reference, reference.loadRes([dict(result) for result in looked_for(truth, best(results, MOST))]), kind, lvis_style=True,
        print_function=lambda *_: None,
    )  # fmt: skip
    evaluator.params.maxDets = [MOST]
    evaluator.run()
    return evaluator


def looked_for(truth: Mapping[str, Any], results: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Results of classes that are in their image or known not to be.

    faster-coco-eval passes over the others too, but for masks it fails on an image without objects that has no other result.
    """
    known = {image["id"]: set(image.get("neg_category_ids", ())) for image in truth["images"]}
    for thing in truth["annotations"]:
        known[thing["image_id"]].add(thing["category_id"])
    return [result for result in results if result["category_id"] in known[result["image_id"]]]


def best(results: Iterable[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    """The ``most`` highest scores of every image; of equal ones the first."""
    by_image: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for result in results:
        by_image[result["image_id"]].append(result)
    return [
        result for found in by_image.values() for result in sorted(found, key=lambda result: -result["score"])[:most]
    ]
