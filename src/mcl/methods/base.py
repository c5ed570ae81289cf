"""What every pre-training method offers; the loop never asks which one it is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

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
        """A batch of ``collate_tiles`` -> (0-d loss, numbers to log), all at once."""
        return next(iter(self.losses(batch, step)))

    @abstractmethod
    def losses(
        self, batch: Mapping[str, Any], step: int, parts: int = 1
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """The loss of a batch in ``parts`` micro-batches, for what does not fit in memory at once.

        Call backward on each before asking for the next. Losses and gradients add up to the batch's, but for
        statistics of BatchNorms, which are each micro-batch's own. Numbers are to be averaged.
        """

    @abstractmethod
    def after_update(self, step: int, total_steps: int) -> None:
        """Called after the optimizer: moves the target."""
