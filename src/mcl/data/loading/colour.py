"""Colour operations on many views at once, in 16-bit integers.

Integers of 16 bits, because a core then works on twice as many pixels at a time as with 32-bit floats, and because the
result is the same to the bit on every device and however many views are taken together. Values stay within
-32768..32767: differences of pixels (at most 255) are multiplied by factors in fixed point with as many bits after the
point as fit. The operations are torchvision's; a pixel differs from what ``torchvision.transforms.v2.functional`` gives
by rounding (tests tell how much).

Comparisons write 0 or 1 into 16-bit tensors and are multiplied: ``torch.where`` and boolean masks are many times slower.

Everywhere below: x (M, 3, P) int16 in 0..255, changed in place and returned; factors (M,).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

LARGEST = 127  # of a factor in fixed point: 127 * 255 + rounding is below 2^15
RED, BLUE = 77, 29  # luminance (ITU-R 601), times 256
HUE_STEP = 0.99  # sextants that hue is turned by at a time


def bits_for(strength: float) -> int:
    """Bits after the point with which numbers up to ``strength`` are still at most ``LARGEST``; at most 8."""
    return max(0, min(8, math.floor(math.log2(LARGEST / strength)))) if strength else 8


def fixed(numbers: np.ndarray, bits: int, device: torch.device) -> Tensor:
    """(M,) -> (M, 1, 1) int16 in fixed point."""
    scaled = np.rint(numbers * 2.0**bits).clip(-LARGEST, LARGEST).astype(np.int16)
    return torch.from_numpy(scaled).to(device, non_blocking=True)[:, None, None]


def rounded_shift(x: Tensor, bits: int) -> Tensor:
    """x / 2^bits, to the nearest integer, in place."""
    return x.add_(1 << (bits - 1)).bitwise_right_shift_(bits) if bits else x


def luminance(x: Tensor) -> Tensor:
    """(M, 1, P): 0.299 R + 0.587 G + 0.114 B, rounded."""
    red, green, blue = x.split(1, dim=1)
    sum_ = torch.sub(red, green).mul_(RED).add_(torch.sub(blue, green).mul_(BLUE))
    return rounded_shift(sum_, 8).add_(green)


def brighten(x: Tensor, factors: np.ndarray, strength: float) -> Tensor:
    """x factor; factors within 1 +- strength."""
    return _away_from(x, None, factors, strength)


def contrast(x: Tensor, factors: np.ndarray, strength: float) -> Tensor:
    """m + (x - m) factor, where m is the view's mean luminance, rounded."""
    pixels = x.shape[2]
    total = luminance(x).sum(dim=(1, 2), dtype=torch.int64)
    mean = torch.div(total + pixels // 2, pixels, rounding_mode="floor").to(torch.int16)
    return _away_from(x, mean[:, None, None], factors, strength)


def saturate(x: Tensor, factors: np.ndarray, strength: float) -> Tensor:
    """l + (x - l) factor, where l is the pixel's luminance."""
    return _away_from(x, luminance(x), factors, strength)


def turn_hue(x: Tensor, turns: np.ndarray, strength: float) -> Tensor:
    """Turn hue by ``turns`` (all of one sign, at most ``strength``) at the same value and saturation (HSV).

    On the hexagon of hues, with chroma c = max - min, a turn by t sextants (0 <= t <= 1) moves each channel, whose
    next one in the order R, G, B, R is ``next`` and the third ``last``, from a plateau down or from 0 up along

        clamp(channel - next + c t + [next > last] (c - 2 c t), 0, c) + min,

    which needs no hue, no division and no case by sextant. Turning back exchanges G and B.
    """
    sextants = 6 * np.abs(turns)
    count = max(1, math.ceil(6 * strength / HUE_STEP))
    bits = bits_for(min(6 * strength, HUE_STEP))
    step = fixed(sextants / count, bits, x.device)[:, 0]
    order = (0, 2, 1) if (turns < 0).any() else (0, 1, 2)
    for _ in range(count):
        _turn(x, step, bits, order)
    return x


def _turn(x: Tensor, step: Tensor, bits: int, order: tuple[int, int, int]) -> None:
    channels = [x[:, channel] for channel in order]
    lowest = torch.minimum(channels[0], channels[1])
    torch.minimum(lowest, channels[2], out=lowest)
    chroma = torch.maximum(channels[0], channels[1])
    torch.maximum(chroma, channels[2], out=chroma)
    chroma.sub_(lowest)
    moved = rounded_shift(chroma * step, bits)
    falling = torch.sub(chroma, moved, alpha=2)
    turned = []
    for this in range(3):
        channel, next_, last = channels[this], channels[(this + 1) % 3], channels[(this + 2) % 3]
        value = torch.gt(next_, last, out=torch.empty_like(chroma)).mul_(falling)
        value.add_(channel).sub_(next_).add_(moved).clamp_(min=0)
        turned.append(torch.minimum(value, chroma, out=value).add_(lowest))
    for channel, value in zip(channels, turned, strict=True):
        channel.copy_(value)


def _away_from(x: Tensor, base: Tensor | None, factors: np.ndarray, strength: float) -> Tensor:
    """base + (x - base) factor; base None: 0."""
    bits = bits_for(strength)
    change = x.clone() if base is None else x - base
    change.mul_(fixed(factors - 1, bits, x.device))
    return x.add_(rounded_shift(change, bits)).clamp_(0, 255)
