"""AP of resampled images against COCO's own of copied images; intervals against known cases."""

import copy

import numpy as np
import pytest

from mcl.data.labels.coco_json import read_coco
from mcl.detect.evaluate import coco_numbers
from mcl.studies.matches import Matches, resample_weights
from mcl.studies.statistics import Sample, difference, mean, share_of_way


def detections(scenes, seed=0, digits=9):
    """Some right, some a little off, some of another class, some nowhere; with few digits there are ties in their scores."""
    rng = np.random.default_rng(seed)
    found = []
    for scene in scenes.scenes:
        for thing in scene.objects:
            x1, y1, x2, y2 = thing.box
            for spread in (1, 4):
                x, y, w, h = np.array([x1, y1, x2 - x1, y2 - y1]) + rng.normal(0, spread, 4)
                category = thing.category if rng.random() < 0.7 else int(rng.choice(list(scenes.categories)))
                score = float(round(rng.random(), digits))
                found.append({"image_id": scene.id, "category_id": category, "bbox": [x, y, max(w, 1), max(h, 1)], "score": score})
        found.append({"image_id": scene.id, "category_id": 5, "bbox": [1.0, 1.0, 9.0, 9.0], "score": float(rng.random())})
    return found


def copied(scenes, found, weights):
    """The scenes and detections with so many copies of each image."""
    twin, results = copy.copy(scenes), []
    object.__setattr__(twin, "scenes", [])
    for scene, count in zip(scenes.scenes, weights, strict=True):
        for _ in range(count):
            number = len(twin.scenes) + 1
            other = copy.copy(scene)
            object.__setattr__(other, "id", number)
            twin.scenes.append(other)
            results += [{**one, "image_id": number} for one in found if one["image_id"] == scene.id]
    return twin, results


@pytest.mark.parametrize("agnostic", [False, True])
def test_ap_of_weighted_images_is_cocos_of_copied_images(toy_data, agnostic):
    scenes = read_coco(toy_data / "train.json", toy_data)
    found = detections(scenes)
    weights = np.concatenate([np.ones((1, 12), dtype=int), resample_weights(12, 6, seed=3)])
    values = Matches.of(scenes, found, "bbox", agnostic).ap(weights)
    for value, row in zip(values, weights, strict=True):
        numbers = coco_numbers(*_bbox(copied(scenes, found, row)))
        expected = numbers["class_agnostic_AP"] if agnostic else numbers["bbox"]["AP"]
        assert value == pytest.approx(expected, abs=1e-5)


def _bbox(pair):
    return pair[0], {"bbox": pair[1]}


def test_crowds_and_images_without_anything(toy_data, tmp_path):
    import json

    content = json.loads((toy_data / "train.json").read_text())
    for one in content["annotations"][::3]:
        one["iscrowd"] = 1
        one.pop("segmentation")
    (tmp_path / "crowds.json").write_text(json.dumps(content))
    scenes = read_coco(tmp_path / "crowds.json", toy_data)
    found = detections(scenes, 1, digits=1)
    value = Matches.of(scenes, found, "bbox").ap(np.ones((1, 12), dtype=int))
    assert value[0] == pytest.approx(coco_numbers(scenes, {"bbox": found})["bbox"]["AP"], abs=1e-5)
    nothing = np.zeros((1, 12), dtype=int)
    nothing[0, 11] = 12  # the scene without objects
    assert np.isnan(Matches.of(scenes, found, "bbox").ap(nothing))[0]


def sample(point, spread=0.0, resamples=4000, seed=0):
    point = np.atleast_2d(np.asarray(point, dtype=float))
    images = spread * np.random.default_rng(seed).standard_normal(resamples)
    return Sample(point, point[..., None] + images, tuple(range(point.shape[1])))


def test_one_seed_leaves_the_images_alone():
    estimate = mean(sample([[0.3]], spread=0.02))
    assert estimate.value == 0.3
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * 0.02, rel=0.08)


def test_seeds_give_the_interval_of_a_known_spread():
    """Over many studies of 3 seeds, the draws have the variance of a mean of 3, not 2/3 of it."""
    rng = np.random.default_rng(1)
    variances = [sample(0.02 * rng.standard_normal((1, 3)), resamples=500).draws().var() for _ in range(400)]
    assert np.mean(variances) == pytest.approx(0.02**2 / 3, rel=0.15)


def test_differences_are_paired_by_seed_and_image():
    """What both share, bad seeds and hard images, is no part of their difference."""
    seeds, images = np.array([[0.0, 0.1, -0.1]]), 0.05
    one, other = sample(0.30 + seeds, images), sample(0.25 + seeds, images)
    estimate = difference(one, other)
    assert estimate.value == pytest.approx(0.05)
    assert estimate.low == pytest.approx(0.05, abs=1e-9) and estimate.high == pytest.approx(0.05, abs=1e-9)
    assert mean(one).high - mean(one).low > 0.1
    unpaired = difference(one, sample(0.25 - seeds, images))
    assert unpaired.high - unpaired.low > 0.1


def test_differences_use_the_seeds_that_both_have():
    one = sample([[0.3, 0.4, 0.9]])
    other = Sample(one.point[:, :2] - 0.1, one.resampled[:, :2] - 0.1, (0, 1))
    assert difference(one, other).value == pytest.approx(0.1)


def test_pretraining_seeds_are_drawn_too():
    wide = mean(sample([[0.2, 0.2], [0.4, 0.4]]))
    assert wide.value == pytest.approx(0.3) and wide.high - wide.low > 0.15


def test_share_of_the_way():
    scratch, control, start = (sample([[v, v + 0.01]], 0.01) for v in (0.1, 0.3, 0.15))
    estimate = share_of_way(start, scratch, control)
    assert estimate.value == pytest.approx(0.25) and estimate.low == pytest.approx(0.25) == estimate.high
    assert share_of_way(start, control, scratch) is None


def test_resamples_draw_as_many_images_as_there_are_and_always_the_same():
    weights = resample_weights(50, 200)
    assert (weights.sum(1) == 50).all() and (weights == resample_weights(50, 200)).all()
    assert weights.var() == pytest.approx(1, rel=0.1)
