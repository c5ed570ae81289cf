"""From an image's segments to the cells of its views."""

from __future__ import annotations

import torch
from torch import Tensor

from mcl.methods.regions import pick, points_of

POINTS = 8  # of a cell's side that are looked at


def in_view(segments: Tensor, crops: Tensor, side: int) -> Tensor:
    """Segments at ``side`` x ``side`` points of a view.

    Args:
        segments: (N, S, S) uint8 over the whole image.
        crops: (N, 5) of ``batch["crops"]``.

    Returns:
        (N, side, side) int64.
    """
    size = segments.shape[-1]
    x, y = ((points * size).long().clamp(0, size - 1) for points in points_of(crops, side))
    images = torch.arange(len(segments), device=segments.device)[:, None, None]
    return segments[images, y[:, :, None], x[:, None, :]].long()


def cells_of(segments: Tensor, crops: Tensor, window: int, most: int) -> Tensor:
    """The segment that has most of each cell of a view's map: (N, window * window) in 0..most - 1."""
    points = in_view(segments, crops, window * POINTS)
    n = len(points)
    # (N, w, P, w, P) -> (N, cells, points)
    points = points.view(n, window, POINTS, window, POINTS).transpose(2, 3).reshape(n, window * window, POINTS**2)
    counts = torch.zeros(n, window * window, most, device=points.device)
    return counts.scatter_add_(2, points, torch.ones_like(points, dtype=counts.dtype)).argmax(dim=2)


def draw_masks(cells: Tensor, chances: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Draw segments of a view, all that it shows alike, with replacement (section 3.1).

    Args:
        cells: (N, cells) of ``cells_of``.
        chances: (N, M) in 0..1.

    Returns:
        (N, M) numbers of segments, and (N, M, cells) weights of their cells, which sum to 1.
    """
    there = torch.zeros(len(cells), most, device=cells.device).scatter_(1, cells, 1.0) > 0
    numbers = pick(there, chances)
    masks = (cells[:, None, :] == numbers[:, :, None]).float()
    return numbers, masks / masks.sum(dim=2, keepdim=True)
