"""Gaussian blur of many views at once, each with its own radius, in integers (see colour.py).

The kernel is Pillow's (``ImageFilter.GaussianBlur``), which torchvision's recipes and the authors use: three box filters
whose width is not a whole number, put together into one symmetric kernel; borders are continued by their last pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mcl.data.loading.colour import rounded_shift

PASSES = 3  # box filters
NARROW = 2.5  # radius up to which weights in 1/128 are fine enough, and no sum leaves 16 bits


@dataclass(frozen=True)
class Kernels:
    """What radii up to ``largest`` need, so that it does not depend on which views are blurred together.

    Attributes:
        largest: radius (standard deviation) in pixels.
        dtype: of the arithmetic.
        bits: of weights after the point.
        reach: pixels to each side with a weight that is not rounded to zero.
    """

    largest: float
    dtype: torch.dtype
    bits: int
    reach: int

    @classmethod
    def up_to(cls, largest: float) -> Kernels:
        """16-bit integers if they are enough."""
        dtype, bits = (torch.int16, 7) if largest <= NARROW else (torch.int32, 16)
        return cls(largest, dtype, bits, int((_rounded(np.array([largest]), bits) > 0).sum()))

    def weights(self, radii: np.ndarray, device: torch.device) -> Tensor:
        """(M, reach) in fixed point."""
        found = _rounded(radii, self.bits)[:, : self.reach]
        padded = np.pad(found, ((0, 0), (0, self.reach - found.shape[1])))
        return torch.from_numpy(padded).to(device, self.dtype, non_blocking=True)


def blur(views: Tensor, radii: np.ndarray, kernels: Kernels) -> Tensor:
    """Blur along rows, then along columns.

    Args:
        views: (M, C, S, S) of any integer type, in 0..255.
        radii: (M,) standard deviations in pixels, at most ``kernels.largest``; 0 leaves a view as it is.

    Returns:
        (M, C, S, S) integers in 0..255, not contiguous.
    """
    weights, reach, side = kernels.weights(radii, views.device), kernels.reach, views.shape[-1]
    count, channels = views.shape[:2]
    wide = torch.empty(count, channels, side, side + 2 * reach, dtype=kernels.dtype, device=views.device)
    wide[..., reach : reach + side] = views
    wide[..., :reach] = views[..., :1]
    wide[..., reach + side :] = views[..., -1:]
    rows = _along(wide, 1, weights, kernels.bits)[..., :side]
    tall = torch.empty(count, channels, side + 2 * reach, side, dtype=kernels.dtype, device=views.device)
    tall[:, :, reach : reach + side] = rows
    tall[:, :, :reach] = rows[:, :, :1]
    tall[:, :, reach + side :] = rows[:, :, -1:]
    return _along(tall, side, weights, kernels.bits)[:, :, :side]


def kernel_weights(radii: np.ndarray) -> np.ndarray:
    """(M, R) weights of the pixels 1, 2, .. R to each side, for standard deviations (M,); the middle has the rest.

    Extended box filters (Gwosdek, Grewenig, Bruhn, Weickert 2011, "Theoretical foundations of Gaussian convolution by
    extended box filtering"): 2 l + 1 whole pixels and a fraction of the next, so that the variance is exact.
    """
    variance = np.asarray(radii, np.float64) ** 2 / PASSES
    whole = np.floor((np.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    half = (whole + part)[:, None]
    side = int(whole.max(initial=0)) + 1
    box = np.clip(half + 1 - np.abs(np.arange(-side, side + 1)), 0, 1) / (2 * half + 1)
    made = np.ones((len(box), 1))
    for _ in range(PASSES):
        made = _convolved(made, box)
    return made[:, made.shape[1] // 2 + 1 :]


def _convolved(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Row by row."""
    sum_ = np.zeros((len(first), first.shape[1] + second.shape[1] - 1))
    for shift, column in enumerate(second.T):
        sum_[:, shift : shift + first.shape[1]] += first * column[:, None]
    return sum_


def _rounded(radii: np.ndarray, bits: int) -> np.ndarray:
    return np.rint(kernel_weights(radii) * 2**bits).astype(np.int32)


def _along(padded: Tensor, step: int, weights: Tensor, bits: int) -> Tensor:
    """Blur along one dimension, whose neighbours are ``step`` values apart; each view is taken as one long line.

    Returns:
        Shape of ``padded``; the first values of that dimension are the result (as many as before padding).
    """
    line, reach = padded.flatten(1), weights.shape[1]
    length = line.shape[1] - 2 * reach * step
    made = torch.empty_like(line)
    sum_, middle = made[:, :length], line[:, reach * step : reach * step + length]
    sum_.zero_()
    for distance in range(1, reach + 1):
        before, after = (reach - distance) * step, (reach + distance) * step
        difference = line[:, before : before + length] + line[:, after : after + length]
        sum_.add_(difference.sub_(middle, alpha=2).mul_(weights[:, distance - 1 : distance]))
    rounded_shift(sum_, bits).add_(middle)
    return made.view_as(padded)
