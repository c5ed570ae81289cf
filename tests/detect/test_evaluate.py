"""COCO's numbers are right for results whose numbers are known."""

import numpy as np
import pytest
from faster_coco_eval.core import mask as rle

from mcl.data.labels.scenes import object_mask
from mcl.detect.evaluate import coco_numbers, ground_truth
from mcl.detect.figure import detections_figure


def perfect(scenes):
    results = {"bbox": [], "segm": []}
    for scene in scenes.scenes:
        for thing in scene.objects:
            x1, y1, x2, y2 = thing.box
            head = {"image_id": scene.id, "category_id": thing.category, "score": 0.9}
            encoded = rle.encode(np.asfortranarray(object_mask(thing, scene.height, scene.width)))
            results["bbox"].append({**head, "bbox": [x1, y1, x2 - x1, y2 - y1]})
            results["segm"].append({**head, "segmentation": encoded})
    return results


def test_perfect_results_score_one(scenes):
    numbers = coco_numbers(scenes, perfect(scenes))
    for kind in ("bbox", "segm"):
        assert numbers[kind]["AP"] == numbers[kind]["AP75"] == numbers[kind]["AR100"] == pytest.approx(1)
        assert all(value == pytest.approx(1) for value in numbers[kind]["per_class"].values())
        assert numbers[kind]["AP_large"] is None  # nothing to measure, not zero
    assert numbers["class_agnostic_AP"] == pytest.approx(1)


def test_no_results_score_zero(scenes):
    numbers = coco_numbers(scenes, {"bbox": [], "segm": []})
    assert numbers["bbox"]["AP"] == numbers["segm"]["AP"] == numbers["class_agnostic_AP"] == 0
    detections_figure(scenes, {"bbox": []})


def test_wrong_classes_score_zero_but_not_class_agnostic(scenes):
    results = perfect(scenes)
    ids = list(scenes.categories)
    wrong = [{**r, "category_id": ids[(ids.index(r["category_id"]) + 1) % 3]} for r in results["bbox"]]
    numbers = coco_numbers(scenes, {"bbox": wrong})
    assert numbers["bbox"]["AP"] < 0.2 and numbers["class_agnostic_AP"] == pytest.approx(1)


def test_ids_start_at_one(scenes):
    """Id 0 means 'not matched' to the evaluator: with it the perfect result would lose an object."""
    assert min(annotation["id"] for annotation in ground_truth(scenes, masks=True)["annotations"]) == 1


def test_figure_shows_pairs(scenes):
    figure = detections_figure(scenes, perfect(scenes), count=4)
    assert figure.width > 1000 and figure.height > 600
