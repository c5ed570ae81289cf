"""LVIS's AP by faster-coco-eval equals that of the official ``lvis`` package."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from faster_coco_eval.core import mask as mask_utils

from layouts import write
from mcl.data.labels.formats import read_labels
from mcl.detect.evaluate import coco_numbers, ground_truth
from mcl.detect.metrics.lvis import MOST, NUMBERS, best, lvis_evaluator

OFFICIAL = {
    "AP": "AP", "AP50": "AP50", "AP75": "AP75", "APs": "AP_small", "APm": "AP_medium", "APl": "AP_large",
    "APr": "AP_rare", "APc": "AP_common", "APf": "AP_frequent", "AR@300": "AR300",
}  # fmt: skip


def a_set(rng: np.random.Generator, images: int = 12, classes: int = 9) -> dict:
    """Random boxes of all sizes in LVIS's terms."""
    content: dict = {
        "images": [], "annotations": [],
        "categories": [{"id": i, "name": f"c{i}", "frequency": "rcf"[i % 3]} for i in range(1, classes + 1)],
    }  # fmt: skip
    for image in range(1, images + 1):
        own = rng.choice(classes, 4, replace=False) + 1
        others = [i for i in range(1, classes + 1) if i not in own]
        content["images"].append({
            "id": image, "width": 400, "height": 300, "neg_category_ids": [int(i) for i in rng.choice(others, 2, replace=False)],
            "not_exhaustive_category_ids": [int(own[0])],
        })  # fmt: skip
        for _ in range(7):
            w, h = (float(v) for v in rng.integers(5, 160, 2))
            x, y = (float(v) for v in rng.integers(0, 140, 2))
            content["annotations"].append({
                "id": len(content["annotations"]) + 1, "image_id": image, "category_id": int(rng.choice(own)),
                "bbox": [x, y, w, h], "area": w * h, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]], "iscrowd": 0,
            })  # fmt: skip
    return content


def some_results(content: dict, rng: np.random.Generator) -> list[dict]:
    """Shifted and relabelled copies of the objects, and hundreds of weak ones in one image."""
    results = []
    for thing in content["annotations"] * 3:
        box = np.array(thing["bbox"]) + rng.normal(0, 4, 4)
        number = thing["category_id"] if rng.random() < 0.7 else int(rng.integers(1, 10))
        box[2:] = np.maximum(box[2:], 2)
        results.append({"image_id": thing["image_id"], "category_id": number, "bbox": box.tolist(), "score": float(rng.random())})
    for _ in range(400):
        box = [*rng.integers(0, 200, 2).tolist(), *rng.integers(5, 90, 2).tolist()]
        results.append({"image_id": 1, "category_id": int(rng.integers(1, 10)), "bbox": [float(v) for v in box], "score": float(rng.random() / 5)})
    return results


def test_equals_the_official_package(monkeypatch):
    lvis = pytest.importorskip("lvis", exc_type=ImportError)
    monkeypatch.setattr(np, "float", float, raising=False)  # which it still asks for
    rng = np.random.default_rng(1)
    content = a_set(rng)
    results = some_results(content, rng)
    ours = lvis_evaluator(copy.deepcopy(content), results, "bbox").stats_as_dict

    truth = lvis.LVIS.__new__(lvis.LVIS)  # its constructor reads a file
    truth.logger = __import__("logging").getLogger("lvis")
    truth.dataset = copy.deepcopy(content)
    truth._create_index()
    theirs = lvis.LVISEval(truth, lvis.LVISResults(truth, copy.deepcopy(results), max_dets=MOST), "bbox")
    theirs.run()
    official = theirs.get_results()
    assert official["AP"] > 0.05 and official["APr"] != official["APf"]
    names = {mine: theirs_ for theirs_, mine in NUMBERS.items()}
    for name, mine in OFFICIAL.items():
        assert ours[names[mine]] == pytest.approx(official[name], abs=1e-9), name


def test_the_best_of_each_image():
    results = [{"image_id": i % 2, "score": score} for i, score in enumerate([0.1, 0.5, 0.9, 0.7, 0.3, 0.2])]
    assert [(r["image_id"], r["score"]) for r in best(results, 2)] == [(0, 0.9), (0, 0.3), (1, 0.7), (1, 0.5)]


def test_only_classes_that_were_looked_for_are_judged(tmp_path):
    layout = write("lvis", tmp_path)
    scenes = read_labels(layout.given, layout.images)
    truth = ground_truth(scenes, masks=True)
    assert truth["images"][0]["neg_category_ids"] == scenes.scenes[0].extra["neg_category_ids"]
    right = [
        {"image_id": s.id, "category_id": t.category, "score": 0.5, "bbox": [*t.box[:2], t.box[2] - t.box[0], t.box[3] - t.box[1]]}
        for s in scenes.scenes for t in s.objects
    ]  # fmt: skip
    assert coco_numbers(scenes, {"bbox": right})["bbox"]["AP"] == pytest.approx(1)
    outcome = []
    for kind in ("unknown", "negative"):
        false = []
        for scene in scenes.scenes:
            own, negative = {t.category for t in scene.objects}, set(scene.extra["neg_category_ids"])
            wrong = negative if kind == "negative" else {1, 2, 3} - own - negative
            false += [{"image_id": scene.id, "category_id": i, "score": 0.9, "bbox": [0, 0, 5, 5]} for i in wrong]
        assert false
        outcome.append(coco_numbers(scenes, {"bbox": right + false})["bbox"]["AP"])
    assert outcome[0] == pytest.approx(1) and outcome[1] < 0.95


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_an_empty_image_with_results_of_classes_not_looked_for_alone(kind):
    """They count for nothing, whatever else is found in other images."""
    content = a_set(np.random.default_rng(3), images=3)
    content["annotations"] = [thing for thing in content["annotations"] if thing["image_id"] != 2]
    unknown = min(set(range(1, 10)) - set(content["images"][1]["neg_category_ids"]))
    keys = ("image_id", "category_id", "bbox", "segmentation")
    right = [{**{key: thing[key] for key in keys}, "score": 0.9} for thing in content["annotations"]]
    stray = {**right[0], "image_id": 2, "category_id": unknown}
    found = [_as_rle(result) if kind == "segm" else result for result in [*right, stray]]
    without, beside = (lvis_evaluator(copy.deepcopy(content), results, kind).stats_as_dict for results in (found[:-1], found))
    assert without == pytest.approx(beside, nan_ok=True) and without["AP_all"] > 0.3


def _as_rle(result: dict) -> dict:
    rle = mask_utils.merge(mask_utils.frPyObjects(result["segmentation"], 300, 400))
    return {**result, "segmentation": rle}
