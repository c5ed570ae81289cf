"""The multi-level contrastive loss, in fp32 or better (method: Loss)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


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

    With several positives (assignments other than ``top``) their cross-entropies are averaged; a tile without any
    (possible when montages hold only part of the batch) does not count.

    Args:
        predictions: (n, E) of the online network's predictor, not normalised.
        labels: (n,) image of each tile, counted over all processes.
        targets: (M, E), L2-normalised, without gradient.
        target_labels: (M,) image of each target, counted over all processes.
        temperature: T > 0.
        weight: w of the level.
    """
    dtype = torch.promote_types(predictions.dtype, torch.float32)
    cosines = F.normalize(predictions.to(dtype), dim=1) @ targets.to(dtype).T  # (n, M)
    positive = labels[:, None] == target_labels[None, :]
    counts = positive.sum(dim=1)
    log_probability = F.log_softmax(cosines / temperature, dim=1)
    entropy = -(log_probability * positive).sum(dim=1) / counts.clamp(min=1)
    has_positive = counts > 0
    loss = weight * 2 * temperature * entropy.sum() / has_positive.sum().clamp(min=1)
    with torch.no_grad():
        positive_cosine = (cosines * positive).sum() / positive.sum().clamp(min=1)
        negative_cosine = (cosines * ~positive).sum() / (~positive).sum().clamp(min=1)
        with_positive = has_positive.sum().clamp(min=1)
        nearest = cosines.argmax(dim=1, keepdim=True)
        accuracy = positive.gather(1, nearest).sum().to(dtype) / with_positive
        chance = positive.sum().to(dtype) / (with_positive * positive.shape[1])
    return LevelLoss(loss, positive_cosine, negative_cosine, accuracy, chance)


def total_loss(levels: Sequence[LevelLoss]) -> Tensor:
    """Sum over scales and both directions."""
    return torch.stack([level.loss for level in levels]).sum()
