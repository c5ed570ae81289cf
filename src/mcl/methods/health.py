"""How far embeddings are from a collapse: numbers that every method logs and the watchdogs read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_IMAGES = 8  # fewer embeddings cannot lie in enough directions for their rank to tell anything


def health_of(embeddings: Sequence[Tensor]) -> dict[str, Tensor]:
    """``spread`` and ``rank``: how far target embeddings are from a collapse, as means over views.

    Args:
        embeddings: of each view: (images, E), L2-normalised. Of fewer than 8 images there is no ``rank``.
    """
    measures = {"spread": embedding_spread}
    if len(embeddings[0]) >= LEAST_IMAGES:
        measures["rank"] = embedding_rank
    return {name: torch.stack([measure(e) for e in embeddings]).mean() for name, measure in measures.items()}


def embedding_spread(embeddings: Tensor) -> Tensor:
    """Standard deviation of L2-normalised embeddings over the batch, times sqrt(E): 1 if spread out, 0 if collapsed."""
    unit = F.normalize(embeddings.detach().float(), dim=1)
    return unit.std(dim=0).mean() * unit.shape[1] ** 0.5


def embedding_rank(embeddings: Tensor) -> Tensor:
    """Directions that L2-normalised embeddings really use: (sum of eigenvalues of their covariance)^2 / sum of squares.

    Between 1 (all on a line) and E. A BatchNorm at the projector's end keeps every coordinate spread out even when
    all of them say the same, so the spread alone does not see that.
    """
    unit = F.normalize(embeddings.detach().float(), dim=1)
    centred = unit - unit.mean(dim=0)
    # Both products have the same eigenvalues, zeros aside: the smaller one is taken.
    gram = centred @ centred.T if len(centred) <= centred.shape[1] else centred.T @ centred
    return gram.trace() ** 2 / gram.square().sum().clamp(min=1e-12)
