"""Orders that show rare classes more often."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcl.data.labels.coco_json import CocoScenes, Scene, SceneObject
from mcl.data.labels.sampling import ClassBalanced, RepeatFactor, repeat_factors, sampling_order
from mcl.data.loading.loader import StepSampler
from mcl.data.loading.order import Shuffled

# 100 images: class 1 in all, class 2 in 4, class 3 in one (which has class 2 too), image 99 without objects.
CLASSES = [frozenset({1})] * 95 + [frozenset({1, 2})] * 3 + [frozenset({1, 2, 3}), frozenset()]


def scenes_with(classes) -> CocoScenes:
    from pathlib import Path

    def thing(category: int, crowd: bool = False) -> SceneObject:
        return SceneObject((0, 0, 8, 8), category, crowd, 64)

    scenes = [Scene(i, Path("x"), 8, 8, tuple(thing(c) for c in sorted(present))) for i, present in enumerate(classes)]
    crowd = Scene(len(scenes), Path("x"), 8, 8, (thing(3, crowd=True),))
    return CocoScenes(Path("x.json"), {1: "a", 2: "b", 3: "c"}, [*scenes, crowd])


def test_repeat_factors_are_those_of_lvis():
    factors = repeat_factors(CLASSES, 0.09)
    assert factors[:95].tolist() == [1.0] * 95 and factors[99] == 1
    assert factors[95] == pytest.approx(1.5)  # sqrt(0.09 / 0.04)
    assert factors[98] == pytest.approx(3.0)  # sqrt(0.09 / 0.01), the larger of its classes'
    assert repeat_factors(CLASSES, 0.001).tolist() == [1.0] * 100


def test_a_pass_repeats_images_by_their_factors():
    order = RepeatFactor(tuple(repeat_factors(CLASSES, 0.09)), seed=0)
    assert order.samples == 103  # 96 x 1 + 3 x 1.5 + 3, rounded down
    counts = np.zeros((400, 100), int)
    for epoch in range(400):
        keys = order.keys(epoch)
        assert len(set(keys)) == len(keys) and len(keys) in (103, 104) and {key[0] for key in keys} == {epoch}
        for key in keys:
            counts[epoch, key[1]] += 1
    assert (counts[:, :95] == 1).all() and (counts[:, 98] == 3).all() and (counts[:, 99] == 1).all()
    assert set(np.unique(counts[:, 95:98])) == {1, 2} and counts[:, 95:98].mean() == pytest.approx(1.5, abs=0.1)
    assert order.keys(1) != order.keys(2) and order.keys(1) == RepeatFactor(order.factors, 0).keys(1)


@given(st.lists(st.floats(1, 5), min_size=1, max_size=40), st.integers(0, 50))
def test_every_pass_is_as_long_and_rounds_each_factor(factors, epoch):
    order = RepeatFactor(tuple(factors), seed=3)
    counts = np.bincount([key[1] for key in order.keys(epoch)], minlength=len(factors))
    assert (np.floor(factors) <= counts + 1e-9).all() and (counts <= np.ceil(factors) + 1e-9).all()
    assert abs(counts.sum() - sum(factors)) < 1 + 1e-6


def test_classes_take_turns():
    order = ClassBalanced(tuple(CLASSES), seed=0)
    keys = order.keys(0)
    assert len(keys) == order.samples == 100 and len(set(keys)) == 100
    # Class 3 has one image, which comes in every turn of three; class 2's four images share theirs.
    images = [key[1] for key in keys]
    assert images.count(98) >= 33 and 33 <= sum(95 <= image <= 97 for image in images) + images.count(98) - 33 <= 40
    assert 99 not in images and order.keys(1) != keys
    assert [key for key in keys if key[1] == 98][:3] == [(0, 98), (0, 98, 1), (0, 98, 2)]


@pytest.mark.parametrize("sampling", ["uniform", "class_balanced", "repeat_factor"])
def test_the_order_is_one_for_all_processes_and_for_a_resumed_run(sampling):
    order = sampling_order(scenes_with(CLASSES), sampling, 0.09, seed=5)
    whole = list(StepSampler(101, 8, 5, 0, 40, order=order))
    assert list(StepSampler(101, 8, 5, 17, 40, order=sampling_order(scenes_with(CLASSES), sampling, 0.09, 5))) == whole[17:]
    halves = [list(StepSampler(101, 8, 5, 0, 40, rank, 2, order)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole


def test_uniform_is_the_order_without_the_setting():
    order = sampling_order(scenes_with(CLASSES), "uniform", 0.5, seed=5)
    assert order == Shuffled(101, 5)
    assert list(StepSampler(101, 8, 5, 0, 40, order=order)) == list(StepSampler(101, 8, 5, 0, 40))
