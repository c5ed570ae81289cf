"""The loss of a level: each tile against its targets, in fp32 or better (method: Loss)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mcl.methods.losses import unit


def level_weights(scales: int) -> list[float]:
    """Weights 1/2, 1/4, 1/8, 1/8 for four scales: halved from scale to scale, the last twice; they sum to one."""
    return [2.0 ** -min(i + 1, max(scales - 1, 0)) for i in range(scales)]


@dataclass(frozen=True)
class LevelLoss:
    """Loss of one scale in one direction, and means over its tiles (no gradient).

    Attributes:
        accuracy: share of tiles that are nearest to a target of their own image.
        chance: that share if the nearest target were drawn at random.
    """

    loss: Tensor
    positive_cosine: Tensor
    negative_cosine: Tensor
    accuracy: Tensor
    chance: Tensor


def contrast(
    predictions: Tensor,
    labels: Tensor,
    targets: Tensor,
    target_labels: Tensor,
    temperature: float,
    weight: float,
) -> LevelLoss:
    """w * 2T * CE(normalise(p) . targets^T / T, positives): a tile against every target of the batch.

    With several positives (assignments other than ``top``, classes) their cross-entropies are averaged; a tile
    without any (possible when montages hold only part of the batch) does not count.

    Args:
        predictions: (n, E) of the online network's predictor, not normalised.
        labels: (n,) image or class of each tile, counted over all processes.
        targets: (M, E), L2-normalised, without gradient.
        target_labels: (M,) image or class of each target; of targets that are never positives, -1.
        temperature: T > 0.
        weight: w of the level.
    """
    cosines = _cosines(predictions, targets)
    positive = labels[:, None] == target_labels[None, :]
    costs = -F.log_softmax(cosines / temperature, dim=1)
    loss = weight * 2 * temperature * over_positives(costs, positive)
    return LevelLoss(loss, *agreement(cosines, positive))


def regress(
    predictions: Tensor,
    labels: Tensor,
    targets: Tensor,
    target_labels: Tensor,
    form: Literal["byol", "simsiam"],
    weight: float,
) -> LevelLoss:
    """A tile against its positives alone: w (2 - 2 cos) (BYOL, equation 2), or -w cos / 2 (SimSiam, algorithm 1).

    The sum over both directions is then BYOL's equation with both views, and SimSiam's D / 2 + D / 2.

    Args:
        predictions, labels, targets, target_labels, weight: as for ``contrast``.
        form: whose loss.
    """
    cosines = _cosines(predictions, targets)
    positive = labels[:, None] == target_labels[None, :]
    costs = 2 - 2 * cosines if form == "byol" else -cosines / 2
    return LevelLoss(weight * over_positives(costs, positive), *agreement(cosines, positive))


def over_positives(costs: Tensor, positive: Tensor) -> Tensor:
    """Mean over tiles, of those that have positives, of the mean of their costs: (n, M), bool (n, M) -> 0-d."""
    counts = positive.sum(dim=1)
    each = (costs * positive).sum(dim=1) / counts.clamp(min=1)
    return each.sum() / (counts > 0).sum().clamp(min=1)


@torch.no_grad()
def agreement(cosines: Tensor, positive: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Positive cosine, negative cosine, accuracy and chance (see ``LevelLoss``) of tiles and targets.

    Args:
        cosines: (n, M).
        positive: (n, M), bool.
    """
    positive_cosine = (cosines * positive).sum() / positive.sum().clamp(min=1)
    negative_cosine = (cosines * ~positive).sum() / (~positive).sum().clamp(min=1)
    with_positive = (positive.sum(dim=1) > 0).sum().clamp(min=1)
    nearest = cosines.argmax(dim=1, keepdim=True)
    accuracy = positive.gather(1, nearest).sum().to(cosines.dtype) / with_positive
    chance = positive.sum().to(cosines.dtype) / (with_positive * positive.shape[1])
    return positive_cosine, negative_cosine, accuracy, chance


def total_loss(levels: Sequence[LevelLoss]) -> Tensor:
    """Sum over scales and both directions."""
    return torch.stack([level.loss for level in levels]).sum()


def _cosines(predictions: Tensor, targets: Tensor) -> Tensor:
    """(n, M) of (n, E) predictions and (M, E) normalised targets."""
    normalised = unit(predictions)
    return normalised @ targets.to(normalised.dtype).T
