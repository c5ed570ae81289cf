"""What every pre-training method offers; the loop never asks which one it is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
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
    def trained(self) -> nn.Module:
        """The modules whose parameters the optimizer gets."""

    @abstractmethod
    def loss(self, batch: Mapping[str, Any], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """A batch of ``collate_tiles`` -> (0-d loss, numbers to log).

        Numbers under these names are watched (``mcl.engine.watch``): ``spread`` of the embeddings (1 spread out,
        0 collapsed), their ``rank`` (directions they use), ``accuracy/<level>`` of each level's own task, and
        ``chance``, what guessing would reach.
        """

    @abstractmethod
    def after_update(self, step: int, total_steps: int) -> None:
        """Called after the optimizer: moves the target."""
