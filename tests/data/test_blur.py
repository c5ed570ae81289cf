"""Batched blur is Pillow's, but for rounding and the border."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import ImageFilter
from torchvision.transforms.v2 import functional as F

from images import picture
from mcl.data.loading.blur import Kernels, blur, kernel_weights

SIDE = 48


@pytest.fixture(scope="module")
def pictures():
    return [picture(seed, SIDE, SIDE) for seed in range(9)]


def tensors(images) -> torch.Tensor:
    return torch.stack([F.pil_to_tensor(image) for image in images])


@pytest.mark.parametrize("largest", [0.07, 0.3, 0.57, 1.14, 2.0, 2.5, 4.6])
def test_blur_is_pillows(pictures, largest):
    radii = np.linspace(largest / 8, largest, len(pictures))
    kernels = Kernels.up_to(largest)
    made = blur(tensors(pictures), radii, kernels)
    expected = tensors([image.filter(ImageFilter.GaussianBlur(float(r))) for image, r in zip(pictures, radii, strict=True)])
    difference = (made - expected.short()).abs().float()
    inside = difference[..., kernels.reach : SIDE - kernels.reach, kernels.reach : SIDE - kernels.reach]
    assert inside.max() <= 4 and difference.mean() < 0.7
    assert made.min() >= 0 and made.max() <= 255


def test_16_and_32_bits_agree(pictures):
    views, radii = tensors(pictures), np.linspace(0, 2.5, len(pictures))
    narrow, wide = blur(views, radii, Kernels.up_to(2.5)), blur(views, radii, Kernels.up_to(2.6))
    assert narrow.dtype == torch.int16 and wide.dtype == torch.int32
    assert (narrow - wide).abs().max() <= 5 and (narrow - wide).float().abs().mean() < 0.6


@pytest.mark.parametrize("largest", [0.5, 2.5, 10.0])
def test_a_view_does_not_depend_on_the_others(pictures, largest):
    views, radii, kernels = tensors(pictures), np.linspace(0, largest, len(pictures)), Kernels.up_to(largest)
    together = blur(views, radii, kernels)
    assert torch.equal(together[0], views[0].to(together.dtype))  # radius 0
    for i in range(len(views)):
        assert torch.equal(blur(views[i : i + 1], radii[i : i + 1], kernels)[0], together[i])


def test_the_hardest_edges_stay_in_16_bits():
    edges = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    edges[..., ::2, ::2] = edges[..., 1::2, 1::2] = 255
    for image in (edges, 255 - edges):
        made = blur(image, np.array([2.5]), Kernels.up_to(2.5))[..., 6:-6, 6:-6]
        assert made.min() > 110 and made.max() < 145


def test_kernels_have_the_variance_asked_for():
    radii = np.array([0.1, 0.57, 1.0, 2.0, 7.3])
    weights = kernel_weights(radii)
    distances = np.arange(1, weights.shape[1] + 1)
    assert np.sqrt(2 * (weights * distances**2).sum(axis=1)) == pytest.approx(radii)
    assert (np.diff(weights, axis=1) <= 1e-12).all()
