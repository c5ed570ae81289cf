"""What every pre-training method offers; the loop never asks which one it is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mcl.nn.trunk import Trunk


class Method(nn.Module):
    """A pre-training method: its modules are its state (online, target, predictors)."""

    #: parts of the trunk that the method trains, as ``finetune --parts`` names them
    trained_parts: str = "backbone+pyramid+head"

    @property
    @abstractmethod
    def trunk(self) -> Trunk:
        """The online trunk: what is exported."""

    @property
    @abstractmethod
    def trunks(self) -> list[Trunk]:
        """Every trunk that computes in a step: the online one first, then targets."""

    @property
    @abstractmethod
    def trained(self) -> nn.Module:
        """The modules whose parameters the optimizer gets."""

    def loss(self, batch: Mapping[str, Any], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """A batch of ``collate_tiles`` -> (0-d loss, numbers to log): the sum of ``losses``, held in memory at once."""
        rows = list(self.losses(batch, step))
        return torch.stack([loss for loss, _ in rows]).sum(), mean_numbers([numbers for _, numbers in rows])

    @abstractmethod
    def backward_passes(self, parts: int) -> int:
        """How many losses ``losses`` gives for ``parts`` micro-batches."""

    @abstractmethod
    def losses(
        self, batch: Mapping[str, Any], step: int, parts: int = 1
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """The loss of a batch, piece by piece: call backward on each before asking for the next, to save memory.

        Losses and gradients add up to the batch's. With several micro-batches (``parts``) statistics of BatchNorms
        are each micro-batch's own. Numbers are to be averaged.
        """

    @abstractmethod
    def after_update(self, step: int, total_steps: int) -> None:
        """Called after the optimizer: moves the target."""


def mean_numbers(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What a step logs, from what its pieces gave."""
    if len(rows) == 1:
        return dict(rows[0])
    return {name: torch.stack([row[name] for row in rows]).mean() for name in rows[0]}
