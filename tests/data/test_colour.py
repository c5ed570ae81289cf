"""Batched operations give torchvision's pixels, but for rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from images import picture
from mcl.data.loading import colour

OPERATIONS = {
    "brightness": colour.brighten, "contrast": colour.contrast, "saturation": colour.saturate, "hue": colour.turn_hue,
}  # fmt: skip


@pytest.fixture(scope="module")
def views() -> Tensor:
    """Pictures, noise, and every pure colour and grey."""
    pictures = [F.pil_to_tensor(picture(seed, 48, 48)) for seed in range(8)]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (4, 3, 48, 48), generator=generator, dtype=torch.uint8)
    steps = torch.arange(256, dtype=torch.uint8).repeat(9)
    flat = torch.stack([steps * torch.tensor([bool(c & bit) for bit in (1, 2, 4)])[:, None] for c in range(1, 8)])
    return torch.cat([torch.stack(pictures), noise, flat.view(7, 3, 48, 48)])


def ours(name: str, views: Tensor, factor: float, strength: float) -> Tensor:
    made = OPERATIONS[name](views.flatten(2).to(torch.int16), np.full(len(views), factor, np.float32), strength)
    assert made.min() >= 0 and made.max() <= 255
    return made.view_as(views)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize(("strength", "most"), [(0.2, 2), (0.4, 2), (1.0, 2), (3.0, 5)])
def test_jitter_is_torchvisions(views, name, strength, most):
    for factor in np.linspace(max(0, 1 - strength), 1 + strength, 7).tolist():
        # torchvision cuts the fraction off where we round.
        difference = ours(name, views, factor, strength) - getattr(F, f"adjust_{name}")(views, factor).short()
        assert difference.abs().max() <= most and difference.float().abs().mean() < 1.2, factor


@pytest.mark.parametrize(("strength", "most"), [(0.05, 1), (0.1, 2), (0.25, 3), (0.5, 4)])
def test_hue_is_torchvisions(views, strength, most):
    for turns in np.linspace(-strength, strength, 9).tolist():
        difference = ours("hue", views, turns, strength) - F.adjust_hue(views, turns).short()
        assert difference.abs().max() <= most and difference.float().abs().mean() < 0.4, turns


def test_nothing_happens_without_a_factor(views):
    for name in OPERATIONS:
        assert torch.equal(ours(name, views, 0.0 if name == "hue" else 1.0, 0.4), views.short())


def test_each_view_has_its_own_factor(views):
    factors = np.linspace(0.6, 1.4, len(views)).astype(np.float32)
    for name in ("brightness", "contrast", "saturation"):
        together = OPERATIONS[name](views.flatten(2).to(torch.int16), factors, 0.4).view_as(views)
        for view, factor, made in zip(views, factors, together, strict=True):
            assert torch.equal(made, ours(name, view[None], factor, 0.4)[0])


def test_luminance_is_torchvisions(views):
    made = colour.luminance(views.flatten(2).to(torch.int16)).view(len(views), 1, 48, 48)
    assert (made - F.rgb_to_grayscale(views).short()).abs().max() <= 1


@pytest.mark.parametrize("strength", [0.05, 0.4, 0.5, 0.99, 1.0, 2.0, 100.0])
def test_no_product_leaves_16_bits(strength):
    bits = colour.bits_for(strength)
    largest = int(colour.fixed(np.array([strength]), bits, torch.device("cpu")))
    assert largest * 255 + (1 << bits >> 1) < 2**15 and (bits == 8 or 2 * strength * 2**bits > 126)
