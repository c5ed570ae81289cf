"""Which detection found which object: COCO's matching at one overlap, for all that looks at single errors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval import COCO
from faster_coco_eval.core import mask as rle
from faster_coco_eval.core.faster_eval_api import COCOeval_faster

FALSE, IGNORED = -1, -2  # in ``ImageMatches.taken``: nothing was found; a crowd was, which is neither right nor wrong
OVERLAP = 0.5


@dataclass(frozen=True)
class ImageMatches:
    """Detections of an image beside its objects.

    Attributes:
        image: its id.
        truth: annotations of single objects (crowds are left out), in COCO's format.
        found: detections in COCO's results format, best first.
        taken: (found,) position in ``truth`` of the object that a detection has found, ``FALSE`` or ``IGNORED``.
        overlaps: (found, truth) IoU of boxes or masks.
    """

    image: int
    truth: list[dict[str, Any]]
    found: list[dict[str, Any]]
    taken: np.ndarray
    overlaps: np.ndarray

    @property
    def same_class(self) -> np.ndarray:
        """(found, truth), bool."""
        theirs = np.array([result["category_id"] for result in self.found], int)
        ours = np.array([thing["category_id"] for thing in self.truth], int)
        return theirs[:, None] == ours[None, :]

    def sure(self, score: float) -> ImageMatches:
        """With detections of at least this score alone, which are matched as without the others."""
        kept = sum(result["score"] >= score for result in self.found)
        return ImageMatches(self.image, self.truth, self.found[:kept], self.taken[:kept], self.overlaps[:kept])


def match_images(
    truth: Mapping[str, Any], results: Iterable[Mapping[str, Any]], kind: str, by_class: bool = True
) -> list[ImageMatches]:
    """Match detections to objects as COCO does at IoU 0.5: best score first, each object once.

    Args:
        truth: a COCO dictionary (``mcl.detect.evaluate.ground_truth``).
        results: in COCO's results format.
        kind: ``bbox`` or ``segm``.
        by_class: only within a class; False: whatever the class, which tells classes that are mixed up.

    Returns:
        One for every image, in the order of ``truth["images"]``.
    """
    reference = COCO(dict(truth))
    detections = reference.loadRes([dict(result) for result in results])
    pairs = _matched(reference, detections, kind, by_class)
    objects, found = _by_image(reference), _by_image(detections)
    images = [image["id"] for image in truth["images"]]
    return [_image(image, objects[image], found[image], pairs, _shapes(kind, reference, detections)) for image in images]


def _matched(reference: COCO, detections: COCO, kind: str, by_class: bool) -> dict[int, int]:
    """Id of a detection -> id of the annotation that it has found."""
    evaluator = COCOeval_faster(reference, detections, kind, extra_calc=True)
    evaluator.print_function = lambda *_: None
    params = evaluator.params
    params.iouThrs, params.areaRng, params.areaRngLbl = np.array([OVERLAP]), [[0, 1e10]], ["all"]
    params.maxDets, params.useCats = [max(1, len(detections.anns))], int(by_class)
    evaluator.evaluate()
    evaluator.accumulate()
    return {int(theirs): int(ours) for theirs, ours in (pair.split("_") for pair in evaluator.eval["matched"])}


def _by_image(dataset: COCO) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in dataset.anns.values():
        found[annotation["image_id"]].append(annotation)
    return found


def _shapes(kind: str, reference: COCO, detections: COCO):
    """annotations, detections -> what ``rle.iou`` takes."""
    if kind == "bbox":
        return lambda ours: [thing["bbox"] for thing in ours], lambda theirs: [thing["bbox"] for thing in theirs]
    return lambda ours: [reference.annToRLE(t) for t in ours], lambda theirs: [detections.annToRLE(t) for t in theirs]


def _image(image: int, objects: list, found: list, pairs: Mapping[int, int], shapes) -> ImageMatches:
    truth = [thing for thing in objects if not thing["iscrowd"]]
    place = {thing["id"]: i for i, thing in enumerate(truth)}
    found = sorted(found, key=lambda result: -result["score"])
    taken = [place.get(pairs[r["id"]], IGNORED) if r["id"] in pairs else FALSE for r in found]
    overlaps = np.zeros((len(found), len(truth)))
    if found and truth:
        overlaps = np.asarray(rle.iou(shapes[1](found), shapes[0](truth), [0] * len(truth))).reshape(overlaps.shape)
    return ImageMatches(image, truth, found, np.array(taken, int), overlaps)
