"""Cells of a tile against the target's cells at the same place of the image (after PixPro, arXiv 2011.10043).

PixPro pairs cells of two views that lie near each other; here the target's map is read between its cells at exactly
the place of the tile's cell. As there, the loss is a regression (minus the cosine up to scale), without negatives.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mcl.methods.losses import at_least_fp32, unit


def dense_loss(predictions: Tensor, targets: Tensor, crops: Tensor, target_crops: Tensor) -> tuple[Tensor, Tensor]:
    """(0-d mean over tiles of the mean over its cells of 2 - 2 cos; share of cells that the target shows too).

    Cells whose place the target does not show do not count; a tile without any adds nothing. (The mean is over a
    fixed number of tiles, so that micro-batches and processes add up to the batch.)

    Args:
        predictions: (n, E, w, w) of a tile's cells, not normalised.
        targets: (n, E, w, w) of its full-size image in the other view, without gradient.
        crops, target_crops: (n, 5) where tile and target were cut: left, top, right, bottom as fractions of the image,
            and 1 if mirrored.
    """
    places = cell_places(crops, predictions.shape[-1])
    found, inside = at_places(at_least_fp32(targets), places, target_crops)
    cosines = (unit(predictions.movedim(1, -1)) * unit(found.movedim(1, -1))).sum(dim=-1)  # (n, w, w)
    each = ((2 - 2 * cosines) * inside).sum(dim=(1, 2)) / inside.sum(dim=(1, 2)).clamp(min=1)
    return each.mean(), inside.to(each.dtype).mean()


def cell_places(crops: Tensor, window: int) -> Tensor:
    """Centres of the cells of views in the image: (n, 5) crops -> (n, w, w, 2) x and y as fractions of the image."""
    at = (torch.arange(window, dtype=crops.dtype, device=crops.device) + 0.5) / window
    left, top, right, bottom, mirrored = (column[:, None] for column in crops.unbind(1))
    across = torch.where(mirrored > 0.5, 1 - at, at)  # (n, w)
    x, y = left + across * (right - left), top + at * (bottom - top)
    return torch.stack([x[:, None, :].expand(-1, window, -1), y[:, :, None].expand(-1, -1, window)], dim=-1)


def at_places(maps: Tensor, places: Tensor, crops: Tensor) -> tuple[Tensor, Tensor]:
    """Maps of views read at places of the image: ((n, E, h, w) values, (n, h, w) whether the view shows the place).

    Args:
        maps: (n, E, H, W) of views.
        places: (n, h, w, 2) x and y as fractions of the image.
        crops: (n, 5) of the views.
    """
    left, top, right, bottom, mirrored = (column[:, None, None] for column in crops.unbind(1))
    x, y = (places[..., 0] - left) / (right - left), (places[..., 1] - top) / (bottom - top)
    x = torch.where(mirrored > 0.5, 1 - x, x)
    inside = (x >= 0) & (x <= 1) & (y >= 0) & (y <= 1)
    grid = (2 * torch.stack([x, y], dim=-1) - 1).to(maps.dtype)  # -1 and 1 are the outer edges of the outer cells
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False), inside
