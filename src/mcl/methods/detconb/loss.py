"""DetCon's contrastive detection loss (section 3.1, equation 3), for one direction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Regions:
    """Embeddings of segments of images.

    Attributes:
        embeddings: (N, M, E), L2-normalised.
        numbers: (N, M) which segment of its image each one is.
    """

    embeddings: Tensor
    numbers: Tensor


def contrastive_detection(
    predicted: Regions, same: Regions, other: Regions, first: int, temperature: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Each predicted segment is pulled to the targets of the same segment in the other view of its image.

    All other segments of the batch, in both views, push it away; only its own targets in the same view are left out.
    A segment that was drawn several times counts once, one that the other view does not show not at all.

    Args:
        predicted: of one view, (n, M, ...).
        same: targets of the same view, of all images: (N, M, ...).
        other: targets of the other view, of all images: (N, M, ...).
        first: place of the predicted images among all.
        temperature: > 0.

    Returns:
        The mean over all (n, M) predictions, and means over those with a positive: ``accuracy``, ``chance``.
    """
    n, m, _ = predicted.embeddings.shape
    queries = predicted.embeddings.flatten(0, 1)  # (n * M, E)
    own = torch.arange(first, first + n, device=queries.device)
    images = torch.arange(len(other.numbers), device=queries.device)
    own_image = (own[:, None] == images).repeat_interleave(m, 0).repeat_interleave(m, 1)  # (n * M, N * M)
    numbers = predicted.numbers.flatten()[:, None]
    positive = own_image & (numbers == other.numbers.flatten())
    itself = own_image & (numbers == same.numbers.flatten())
    logits = torch.cat([
        queries @ other.embeddings.flatten(0, 1).T / temperature,
        (queries @ same.embeddings.flatten(0, 1).T / temperature).masked_fill(itself, -torch.inf),
    ], dim=1)  # fmt: skip
    count = positive.sum(dim=1)
    drawn = (predicted.numbers[:, :, None] == predicted.numbers[:, None, :]).sum(dim=2).flatten()
    log_p = logits.log_softmax(dim=1)[:, : positive.shape[1]]
    each = -(log_p * positive).sum(dim=1) / count.clamp(min=1) / drawn
    with torch.no_grad():
        known = (count > 0).to(each.dtype)
        most = torch.cat([positive, torch.zeros_like(itself)], dim=1).gather(1, logits.argmax(dim=1, keepdim=True))
        least = known.sum().clamp(min=1)
        told = {"accuracy": (most[:, 0] * known).sum() / least, "chance": count.sum() / least / logits.shape[1]}
    return each.mean(), told
