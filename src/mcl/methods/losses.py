"""Losses that several methods share, in fp32 or better."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def at_least_fp32(tensor: Tensor) -> Tensor:
    """A tensor in fp32, or as it is if that is more."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def unit(tensor: Tensor) -> Tensor:
    """L2-normalised over the last axis, in fp32 or better."""
    return F.normalize(at_least_fp32(tensor), dim=-1)


def queue_contrast(
    queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """InfoNCE of each query with its own key against a queue (MoCo, equation 1): mean of
    -log exp(q k+ / T) / (exp(q k+ / T) + sum over the queue of exp(q k- / T)).

    Args:
        queries: (n, E), L2-normalised.
        keys: (n, E), L2-normalised, without gradient: the positives.
        negatives: (Q, E), L2-normalised.
        temperature: T > 0.

    Returns:
        The loss, and means over the queries: ``positive_cosine``, ``negative_cosine``, ``accuracy``.
    """
    positive = (queries * keys).sum(dim=1, keepdim=True)  # (n, 1)
    negative = queries @ negatives.to(queries.dtype).T  # (n, Q)
    logits = torch.cat([positive, negative], dim=1) / temperature
    loss = F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))
    with torch.no_grad():
        numbers = {
            "positive_cosine": positive.mean(),
            "negative_cosine": negative.mean(),
            "accuracy": (positive > negative.amax(dim=1, keepdim=True)).to(loss.dtype).mean(),
        }
    return loss, numbers


def regression(predictions: Tensor, targets: Tensor) -> Tensor:
    """2 - 2 cos(prediction, target), mean over rows (BYOL, equation 2); targets get no gradient here."""
    return 2 - 2 * (unit(predictions) * unit(targets.detach())).sum(dim=-1).mean()
