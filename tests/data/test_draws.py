"""What is drawn has torchvision's distribution, and depends on its own numbers alone."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image
from torchvision.transforms import v2

from mcl.config.pretrain import ViewSettings
from mcl.data.loading import draws
from mcl.data.loading.draws import (
    BLUR,
    FACTORS,
    FLIP,
    GRAY,
    JITTERS,
    ORDER,
    ORDERS,
    SOLARIZE,
    UNJITTERED,
    draw,
    place,
)
from mcl.randomness import uniform

KEYS, STYLES, SCALE = [(1, 1), (1, 4), (2, 1)], [0, 0, 1], [1.0, 0.25, 1.0]


def drawn(settings=None, seed=0, epochs=None, indices=range(3000), keys=KEYS, styles=STYLES, scale=SCALE):
    indices = list(indices)
    return draw(settings or ViewSettings(), seed, epochs or [0] * len(indices), indices, keys, styles, scale)


def test_a_view_does_not_depend_on_its_batch():
    whole = drawn(indices=range(10), epochs=[1] * 9 + [2])
    for n, epoch, v in ((0, 1, 0), (7, 1, 2), (9, 2, 1)):
        alone = drawn(indices=[n], epochs=[epoch], keys=[KEYS[v]], styles=[STYLES[v]], scale=[SCALE[v]])
        assert np.array_equal(alone.places[0, 0], whole.places[n, v])
        assert np.array_equal(alone.effects[0, 0], whole.effects[n, v])
    for other in (drawn(seed=1, indices=range(10), epochs=[1] * 9 + [2]), drawn(indices=range(10), epochs=[3] * 10)):
        assert (other.places != whole.places).all()


def test_effects_have_their_probabilities_and_ranges():
    settings, effects = ViewSettings(), drawn().effects.astype(float)

    def share(values):
        return values.mean(axis=0)

    assert abs(share(effects[..., FLIP]) - 0.5).max() < 0.04
    assert abs(share(effects[..., ORDER] != UNJITTERED) - 0.8).max() < 0.04
    assert abs(share(effects[..., GRAY]) - 0.2).max() < 0.04
    assert abs(share(effects[..., SOLARIZE]) - [0, 0, 0.2]).max() < 0.04
    assert abs(share(effects[..., BLUR] > 0) - [1, 1, 0.1]).max() < 0.03
    radii = effects[:, :2, BLUR]
    assert (radii.min(axis=0) > [0.0999, 0.0249]).all() and (radii.max(axis=0) <= [2.0, 0.5]).all()
    assert abs(radii.mean(axis=0) - [1.05, 1.05 / 4]).max() < 0.05
    theirs = v2.ColorJitter(settings.brightness, settings.contrast, settings.saturation, settings.hue)
    for name, factors in zip(JITTERS, np.moveaxis(effects[..., FACTORS], -1, 0), strict=True):
        low, high = getattr(theirs, name)
        assert low <= factors.min() + 1e-6 and factors.max() <= high + 1e-6
        assert abs(factors.mean() - (low + high) / 2) < 0.02 * (high - low)
        assert abs(factors.std() - (high - low) / math.sqrt(12)) < 0.02 * (high - low)
    # As torchvision's randperm: every order as often.
    counts = np.bincount(effects[..., ORDER][effects[..., ORDER] != UNJITTERED].astype(int), minlength=len(ORDERS))
    assert len(counts) == 24 and counts.min() > 0.8 * counts.mean() and counts.max() < 1.2 * counts.mean()


def test_what_is_off_does_not_happen():
    off = ViewSettings(flip=0, jitter=0, gray=0, blur=(0, 0), solarize=(0, 0))
    effects = drawn(off, indices=range(200)).effects
    assert not effects[..., [FLIP, GRAY, BLUR, SOLARIZE]].any() and (effects[..., ORDER] == UNJITTERED).all()
    on = drawn(ViewSettings(flip=1, jitter=1, gray=1, blur=(1, 1), solarize=(1, 1)), indices=range(200)).effects
    assert (on[..., [FLIP, GRAY, SOLARIZE]] == 1).all() and (on[..., BLUR] > 0).all() and (on[..., ORDER] >= 0).all()


def test_crops_are_torchvisions():
    size, share, ratios = (500, 375), (0.2, 1.0), (3 / 4, 4 / 3)
    boxes = np.array([place(p, share, ratios, *size) for p in drawn().places[:, 0]], dtype=float)
    picture, transform = Image.new("RGB", size), v2.RandomResizedCrop(224, share)
    theirs = [transform.make_params([picture]) for _ in range(3000)]
    theirs = np.array([(p["left"], p["top"], p["left"] + p["width"], p["top"] + p["height"]) for p in theirs], dtype=float)
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 500 and boxes[:, 3].max() <= 375

    def measures(b):
        width, height = b[:, 2] - b[:, 0], b[:, 3] - b[:, 1]
        return np.stack([width * height / 187500, np.log(width / height), b[:, 0] / 500, b[:, 1] / 375, b[:, 3] / 375])

    ours, expected = measures(boxes), measures(theirs)
    error = expected.std(axis=1) / math.sqrt(len(boxes))
    assert (abs(ours.mean(axis=1) - expected.mean(axis=1)) < 6 * error).all()
    assert (abs(ours.std(axis=1) / expected.std(axis=1) - 1) < 0.08).all()
    for quantile in (0.1, 0.5, 0.9):
        assert (abs(np.quantile(ours, quantile, axis=1) - np.quantile(expected, quantile, axis=1)) < 0.04).all()


def test_extreme_pictures_get_the_central_crop():
    numbers = uniform(4 * draws.CROP_ATTEMPTS, 0).reshape(-1, 4)
    assert place(numbers, (1, 1), (3 / 4, 4 / 3), 400, 20) in ((186, 0, 213, 20), (187, 0, 214, 20))
    assert place(numbers, (1, 1), (3 / 4, 4 / 3), 20, 400) in ((0, 186, 20, 213), (0, 187, 20, 214))
