"""COCO AP on resampled test images: boxes are matched once, and a resample only weighs the images.

AP of a resample in which image i occurs w_i times is COCO's AP of the data set with w_i copies of image i; tests
compare the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval import COCO
from faster_coco_eval.core.faster_eval_api import COCOeval_faster

from mcl.data.labels.coco_json import CocoScenes
from mcl.detect.evaluate import ground_truth

MOST = 100  # detections an image and class
CHUNK = 250  # resamples at a time
EPSILON = np.spacing(1)


@dataclass(frozen=True)
class ClassMatches:
    """Detections of a class over all images, best score first.

    Attributes:
        image: (n,) place of each detection's image.
        hit: (thresholds, n) matched to an object.
        ignored: (thresholds, n) matched to a crowd: neither right nor wrong.
        objects: (images,) objects of each image, without crowds.
    """

    image: np.ndarray
    hit: np.ndarray
    ignored: np.ndarray
    objects: np.ndarray


@dataclass(frozen=True)
class Matches:
    """Of all classes that have objects."""

    classes: tuple[ClassMatches, ...]

    @classmethod
    def of(cls, scenes: CocoScenes, results: Sequence[Mapping[str, Any]], kind: str, agnostic: bool = False) -> Matches:
        """Match detections to objects as COCO does.

        Args:
            results: in COCO's format.
            kind: ``bbox`` or ``segm``.
            agnostic: with all classes taken as one.
        """
        truth = ground_truth(scenes, masks=kind == "segm")
        found = [dict(result) for result in results]
        if agnostic:
            truth["categories"] = [{"id": 1, "name": "object"}]
            for one in (*truth["annotations"], *found):
                one["category_id"] = 1
        reference = COCO(truth)
        evaluator = COCOeval_faster(reference, reference.loadRes(found), kind)
        evaluator.print_function = lambda *_: None
        evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluator.params.maxDets = [MOST]
        evaluator.evaluate()
        classes = [_match_class(evaluator, category) for category in evaluator.params.catIds]
        return cls(tuple(one for one in classes if one.objects.any()))

    def ap(self, weights: np.ndarray) -> np.ndarray:
        """AP of each resample, NaN of one without objects.

        Args:
            weights: (resamples, images) how often each image occurs, whole numbers.

        Returns:
            (resamples,) from 0 to 1: mean over classes with objects in the resample, and over thresholds.
        """
        pieces = [self._ap(weights[start : start + CHUNK]) for start in range(0, len(weights), CHUNK)]
        return np.concatenate(pieces)

    def _ap(self, weights: np.ndarray) -> np.ndarray:
        total, counted = np.zeros(len(weights)), np.zeros(len(weights))
        for one in self.classes:
            values = _class_ap(one, weights)
            there = ~np.isnan(values)
            total[there] += values[there]
            counted += there
        return np.where(counted > 0, total / np.maximum(counted, 1), np.nan)


def _match_class(evaluator: COCOeval_faster, category: int) -> ClassMatches:
    thresholds = np.asarray(evaluator.params.iouThrs)
    images, scores, hits, ignored = [], [], [], []
    objects = np.zeros(len(evaluator.params.imgIds), dtype=np.int64)
    for place, image in enumerate(evaluator.params.imgIds):
        truth = evaluator.gt_dataset.get_instances([image], [category], True)[0][0]
        found = evaluator.dt_dataset.get_instances([image], [category], True)[0][0]
        crowd = np.array([bool(one.get("iscrowd", 0)) for one in truth], dtype=bool)
        objects[place] = int((~crowd).sum())
        score = np.array([one["score"] for one in found])
        score = score[np.argsort(-score, kind="mergesort")][:MOST]
        overlaps = np.asarray(evaluator.ious[image, category]).reshape(len(score), len(truth))
        hit, ignore = _match_image(overlaps, crowd, thresholds)
        images += [place] * len(score)
        scores.append(score)
        hits.append(hit)
        ignored.append(ignore)
    order = np.argsort(-np.concatenate(scores), kind="mergesort")
    return ClassMatches(
        np.array(images, dtype=np.int64)[order], np.concatenate(hits, 1)[:, order],
        np.concatenate(ignored, 1)[:, order], objects,
    )  # fmt: skip


def _match_image(overlaps: np.ndarray, crowd: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(hit, ignored), each (thresholds, detections): the best free object, else a crowd; best detections choose first.

    Args:
        overlaps: (detections, objects).
    """
    shape = (len(thresholds), len(overlaps))
    hit, ignored = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    if not len(crowd):
        return hit, ignored
    for t, threshold in enumerate(thresholds):
        least, free = min(threshold, 1 - 1e-10), ~crowd
        for d, overlap in enumerate(overlaps):
            candidates = np.where(free, overlap, -1.0)
            best = len(candidates) - 1 - int(np.argmax(candidates[::-1]))  # of equals the last, as COCO's loop
            if candidates[best] >= least:
                hit[t, d] = True
                free[best] = False
            elif crowd.any() and overlap[crowd].max() >= least:
                ignored[t, d] = True
    return hit, ignored


def _class_ap(one: ClassMatches, weights: np.ndarray) -> np.ndarray:
    """(resamples,) AP of a class: 101 recalls, each with the best precision there or beyond."""
    positives = weights @ one.objects  # (resamples,)
    occurs = weights[:, one.image]  # (resamples, n)
    seen = np.cumsum(occurs, axis=1)
    recalls = np.linspace(0, 1, 101)
    total = np.zeros(len(weights))
    for hit, ignored in zip(one.hit, one.ignored, strict=True):
        places = np.flatnonzero(hit)  # precision only rises there, and recall too
        if not len(places):
            continue
        right = np.cumsum(occurs[:, places], axis=1)
        told = seen[:, places]
        if ignored.any():
            told = told - np.cumsum(occurs * ignored, axis=1)[:, places]
        precision = right / (told + EPSILON)
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        reached = np.searchsorted(recalls, right / np.maximum(positives, 1)[:, None], side="right")
        # A hit that no copy of its image holds reaches no recall that the one before had not reached.
        reached[right == 0] = 0
        steps = np.diff(reached, axis=1, prepend=0)
        total += (best * steps).sum(1) / len(recalls)
    return np.where(positives > 0, total / len(one.hit), np.nan)


def resample_weights(images: int, resamples: int, seed: int = 0) -> np.ndarray:
    """(resamples, images) how often each image is drawn, of as many draws as there are images."""
    generator = np.random.default_rng([seed, images])
    return generator.multinomial(images, np.full(images, 1 / images), size=resamples)
