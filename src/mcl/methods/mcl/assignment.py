"""Which target embeddings a tile is pulled to (the paper's figure of four assignments)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

Assignment = Literal["top", "same", "adjacent", "all"]
ASSIGNMENTS: tuple[str, ...] = get_args(Assignment)


def target_scales(assignment: Assignment, scale: int, scales: Sequence[int]) -> tuple[int, ...]:
    """Scales whose target embeddings serve the tiles of ``scale``.

    ``top``: the full-size image (what the authors' code does); ``same``: its own scale; ``adjacent``: its own and
    the neighbouring ones; ``all``: every scale.
    """
    ordered = tuple(sorted(scales))
    if assignment == "top":
        return ordered[:1]
    if assignment == "same":
        return (scale,)
    if assignment == "all":
        return ordered
    position = ordered.index(scale)
    return ordered[max(0, position - 1) : position + 2]


def gather_targets(
    embeddings: Mapping[int, Tensor], labels: Mapping[int, Tensor], wanted: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Targets of the wanted scales in one table: ((M, E) embeddings, (M,) image of each)."""
    return torch.cat([embeddings[s] for s in wanted]), torch.cat([labels[s] for s in wanted])
