"""Augmenting a batch gives each view what torchvision's chain of operations gives it, and the same distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import ImageFilter
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from images import picture
from mcl.config.pretrain import ViewSettings
from mcl.data.loading import augment
from mcl.data.loading.augment import apply_effects
from mcl.data.loading.draws import (
    BLUR,
    EFFECTS,
    FACTORS,
    FLIP,
    GRAY,
    JITTERS,
    ORDER,
    ORDERS,
    SOLARIZE,
    UNJITTERED,
    draw,
)

SIDE, LARGEST = 48, 1.5
NOTHING = [0, UNJITTERED, 1, 1, 1, 0, 0, 0, 0]
SETTINGS = ViewSettings(blur_radius=(0.1, LARGEST), blur=(0.5, 0.5), solarize=(0.2, 0.2))


@pytest.fixture(scope="module")
def views() -> Tensor:
    """Two of each of 32 pictures, with colours that are no extremes."""
    pictures = [F.pil_to_tensor(picture(seed, SIDE, SIDE)) for seed in range(32)]
    return (torch.stack(pictures * 2).float() * 0.6 + 50).to(torch.uint8)


@pytest.fixture(scope="module")
def effects(views) -> np.ndarray:
    """Everything drawn as in a run."""
    drawn = draw(SETTINGS, 0, [0] * len(views), range(len(views)), [(1, 1)], [0], [1.0])
    return drawn.effects[:, 0]


def torchvisions(view: Tensor, effect: np.ndarray) -> Tensor:
    """One after the other, with torchvision and Pillow."""
    made = F.horizontal_flip(view) if effect[FLIP] else view
    for number in ORDERS[int(effect[ORDER])] if effect[ORDER] != UNJITTERED else ():
        made = getattr(F, f"adjust_{JITTERS[number]}")(made, float(effect[FACTORS][number]))
    made = F.rgb_to_grayscale(made, 3) if effect[GRAY] else made
    if effect[BLUR]:
        made = F.pil_to_tensor(F.to_pil_image(made).filter(ImageFilter.GaussianBlur(float(effect[BLUR]))))
    return F.solarize(made, SETTINGS.solarize_threshold) if effect[SOLARIZE] else made


def test_each_view_gets_its_operations_in_its_order(views, effects):
    made = apply_effects(views.clone(), effects, SETTINGS, LARGEST)
    assert len(set(effects[:, ORDER])) > 15
    for view, effect, got in zip(views, effects, made, strict=True):
        difference = (got.short() - torchvisions(view, effect).short()).abs().float()
        if effect[SOLARIZE]:  # a difference by rounding at the threshold becomes one of 255 - 2 * threshold
            difference = difference.minimum((difference - 1).abs())
        assert difference[:, 6:-6, 6:-6].max() <= 10 and difference.mean() < 3.5  # torchvision cuts fractions off in each
        assert (got.float() - view).abs().mean() > 1 or not effect[FLIP:].any()


@pytest.mark.parametrize(
    ("column", "theirs"),
    [(FLIP, F.horizontal_flip), (SOLARIZE, lambda view: F.solarize(view, 100)), (GRAY, lambda view: F.rgb_to_grayscale(view, 3))],
)  # fmt: skip
def test_flip_gray_and_solarize_are_torchvisions(views, column, theirs):
    effects = np.array([NOTHING] * len(views), np.float32)
    effects[::2, column] = 1
    made = apply_effects(views.clone(), effects, ViewSettings(solarize_threshold=100), 0.0)
    assert torch.equal(made[1::2], views[1::2])
    assert (made[::2].short() - theirs(views[::2]).short()).abs().max() <= (column == GRAY)


def test_nothing_drawn_changes_nothing(views):
    assert torch.equal(apply_effects(views.clone(), np.array([NOTHING] * len(views)), SETTINGS, LARGEST), views)
    assert len(NOTHING) == len(EFFECTS)


def test_the_result_does_not_depend_on_what_is_taken_together(views, effects, monkeypatch):
    whole = apply_effects(views.clone(), effects, SETTINGS, LARGEST)
    monkeypatch.setattr(augment, "PIXELS_AT_ONCE", 3 * SIDE * SIDE)
    assert torch.equal(apply_effects(views.clone(), effects, SETTINGS, LARGEST), whole)
    alone = [apply_effects(views[i : i + 1].clone(), effects[i : i + 1], SETTINGS, LARGEST) for i in range(len(views))]
    assert torch.equal(torch.cat(alone), whole)


def test_the_distribution_is_torchvisions():
    """Brightness, contrast, colour, sharpness of one picture over many draws: their means and spreads agree."""
    settings, count = ViewSettings(blur=(0.5, 0.5), solarize=(0.2, 0.2), blur_radius=(0.1, LARGEST)), 1500
    view = F.resize(F.pil_to_tensor(picture(1, 90, 60)), [24, 24], antialias=True)
    drawn = draw(settings, 1, [0] * count, range(count), [(1, 1)], [0], [1.0]).effects[:, 0]
    ours = apply_effects(view.repeat(count, 1, 1, 1), drawn, settings, LARGEST)
    low, high = settings.blur_radius
    blur = v2.Lambda(lambda image: image.filter(ImageFilter.GaussianBlur(float(torch.empty(()).uniform_(low, high)))))
    chain = v2.Compose([
        v2.RandomHorizontalFlip(0.5), v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8), v2.RandomGrayscale(0.2),
        v2.RandomApply([blur], 0.5), v2.RandomSolarize(128, 0.2),
    ])  # fmt: skip
    image = F.to_pil_image(view)
    torch.manual_seed(0)
    theirs = torch.stack([F.pil_to_tensor(chain(image)) for _ in range(count)])

    def measures(views: Tensor) -> Tensor:
        x = views.float()
        flat = x.flatten(1)
        sharpness = (x[..., 1:] - x[..., :-1]).abs().flatten(1).mean(1)
        colour = (x.amax(1) - x.amin(1)).flatten(1).mean(1)
        sides = x[..., :12].flatten(1).mean(1) - x[..., 12:].flatten(1).mean(1)
        return torch.stack([flat.mean(1), flat.std(1), *x.mean((2, 3)).T, sharpness, colour, sides])

    a, b = measures(ours), measures(theirs)
    error = ((a.var(1) + b.var(1)) / count).sqrt()
    assert ((a.mean(1) - b.mean(1)).abs() < 4 * error + 0.7).all()  # 0.7: torchvision cuts fractions off
    assert ((a.std(1) / b.std(1)).log().abs() < 0.1).all()
    quantiles = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    spread = b.std(1)[None]
    assert ((a.quantile(quantiles, 1) - b.quantile(quantiles, 1)).abs() < 0.2 * spread).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_pixels(views, effects):
    on_gpu = apply_effects(views.clone().cuda(), effects, SETTINGS, LARGEST)
    assert on_gpu.is_cuda and torch.equal(on_gpu.cpu(), apply_effects(views.clone(), effects, SETTINGS, LARGEST))
