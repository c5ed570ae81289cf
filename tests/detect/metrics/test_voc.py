"""VOC's AP for results whose numbers can be worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from layouts import write
from mcl.data.labels.coco_json import CocoScenes, Scene, SceneObject
from mcl.data.labels.formats import read_labels
from mcl.detect.evaluate import coco_numbers
from mcl.detect.metrics.voc import area_under, at_eleven, voc_numbers


def scenes_of(*things: tuple[int, tuple, bool], path) -> CocoScenes:
    """Things are (image, box, difficult), all of one class; there is a second without objects."""
    scenes = [
        Scene(i, path / f"{i}.jpg", 100, 100, tuple(SceneObject(box, 1, False, 1.0, None, hard) for n, box, hard in things if n == i))
        for i in (1, 2)
    ]
    return CocoScenes(path / "x", {1: "cat", 2: "dog"}, scenes, measured_as="voc")


def found(image: int, score: float, x1: float, y1: float, x2: float, y2: float) -> dict:
    return {"image_id": image, "category_id": 1, "score": score, "bbox": [x1, y1, x2 - x1, y2 - y1]}


A, B, C = (0, 0, 10, 10), (20, 20, 40, 40), (50, 50, 60, 60)


def test_by_hand(tmp_path):
    """Right, wrong, right, of three objects: precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3."""
    scenes = scenes_of((1, A, False), (1, B, False), (2, C, False), path=tmp_path)
    results = [found(1, 0.9, *A), found(2, 0.8, 0, 0, 9, 9), found(1, 0.7, *B)]
    numbers = voc_numbers(scenes, results)
    assert numbers["AP50"] == numbers["AP"] == pytest.approx(1 / 3 + 2 / 3 * 1 / 3, abs=1e-5)
    # At recall 0, 0.1 .. 0.3 precision 1, at 0.4 .. 0.6 two thirds, above 0.
    assert numbers["AP50_11point"] == pytest.approx((4 * 1 + 3 * 2 / 3) / 11, abs=1e-5)
    assert numbers["per_class"] == {"cat": pytest.approx(5 / 9, abs=1e-5)}


def test_difficult_objects_do_not_count(tmp_path):
    scenes = scenes_of((1, A, False), (1, B, True), path=tmp_path)
    hit, on_difficult, wrong = found(1, 0.9, *A), found(1, 0.95, *B), found(1, 0.99, 70, 70, 80, 80)
    assert voc_numbers(scenes, [hit])["AP50"] == 1
    assert voc_numbers(scenes, [on_difficult, dict(on_difficult), hit])["AP50"] == 1
    assert voc_numbers(scenes, [wrong, hit])["AP50"] == 0.5
    only = scenes_of((1, B, True), path=tmp_path)
    assert voc_numbers(only, [hit])["AP50"] is None  # nothing to find


def test_an_object_is_found_once_and_by_what_overlaps_it_most(tmp_path):
    scenes = scenes_of((1, A, False), path=tmp_path)
    twice = [found(1, 0.9, *A), found(1, 0.8, *A)]
    assert voc_numbers(scenes, twice)["AP50"] == 1  # the second is wrong, after full recall
    assert voc_numbers(scenes, [found(1, 0.95, 0, 0, 10, 4.99), *twice])["AP50"] == 0.5
    assert voc_numbers(scenes, [found(1, 0.9, 0, 0, 10, 5)])["AP50"] == 1  # IoU 0.5 is enough
    near, far = (0, 0, 10, 10), (4, 0, 14, 10)
    both = scenes_of((1, near, False), (1, far, False), path=tmp_path)
    # Its best object is taken: wrong, though it would overlap the other one enough at 0.5 (COCO's rule).
    assert voc_numbers(both, [found(1, 0.9, *near), found(1, 0.8, 1, 0, 11, 10)])["AP50"] == 0.5


def test_no_results_and_areas(tmp_path):
    numbers = voc_numbers(scenes_of((1, A, False), path=tmp_path), [])
    assert numbers["AP"] == numbers["AP50_11point"] == 0
    recall, precision = np.arange(1, 11) / 10, np.ones(10)
    assert area_under(recall, precision) == pytest.approx(1) and at_eleven(recall, precision) == pytest.approx(1)
    assert at_eleven(recall[:3], precision[:3]) == pytest.approx(4 / 11)


def test_beside_coco_numbers(tmp_path):
    """Of a set in VOC's layout; difficult objects are passed over by COCO's numbers too."""
    layout = write("voc", tmp_path, "test", 4, seed=3)
    scenes = read_labels(layout.given)
    results = [
        {"image_id": s.id, "category_id": t.category, "score": 0.9, "bbox": [*t.box[:2], t.box[2] - t.box[0], t.box[3] - t.box[1]]}
        for s in scenes.scenes
        for t in s.objects
        if not t.difficult
    ]
    numbers = json.loads(json.dumps(coco_numbers(scenes, {"bbox": results})))
    assert numbers["voc"]["AP"] == numbers["voc"]["AP_11point"] == 1 and numbers["bbox"]["AP"] == pytest.approx(1)
