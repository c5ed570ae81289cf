"""Regions of an image, drawn and found again in its views: for methods that compare objects or segments."""

from __future__ import annotations

import torch
from torch import Tensor

from mcl.randomness import STREAM_REGIONS, generator_for


def uniform(numbers: Tensor, count: int, *stream: int) -> Tensor:
    """(N, count) numbers in 0..1, float64 on the CPU: a function of each image and of the stream.

    Args:
        numbers: (N,) images by number.
        stream: for example seed, step and view.
    """
    rows = [
        torch.rand(count, generator=generator_for(STREAM_REGIONS, *stream, number), dtype=torch.float64)
        for number in numbers.tolist()
    ]
    return torch.stack(rows)


def pick(there: Tensor, chances: Tensor) -> Tensor:
    """Draw from those that are there, all alike, with replacement: (N, K) bool, (N, M) in 0..1 -> (N, M) places 0..K - 1.

    Where nothing is there, the result is K - 1.
    """
    order = there.cumsum(dim=1)  # (N, K): the j-th that is there has order j
    wanted = (chances.to(there.device, non_blocking=True) * order[:, -1:]).long() + 1  # 1 .. number that are there
    found = (order[:, None, :] < wanted[:, :, None]).sum(dim=2)
    return found.clamp(max=there.shape[1] - 1)


def points_of(crops: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Where a view's points lie in the image: (N, side) x and y, as fractions of its width and height.

    Args:
        crops: (N, 5) left, top, right, bottom as fractions, and 1 if mirrored (``batch["crops"]``).
        side: points in a row, in the middles of equal cells.
    """
    steps = (torch.arange(side, device=crops.device, dtype=crops.dtype) + 0.5) / side
    left, top, right, bottom, mirrored = crops.unbind(dim=1)
    across = torch.where(mirrored[:, None] > 0, 1 - steps, steps)
    x = left[:, None] + (right - left)[:, None] * across
    y = top[:, None] + (bottom - top)[:, None] * steps
    return x, y
