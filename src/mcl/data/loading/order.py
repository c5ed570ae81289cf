"""In which order samples are trained on: a function of (seed, epoch), the same in every process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from mcl.randomness import STREAM_ORDER, generator_for

#: (epoch, image index); the n-th repeat of an image within an epoch has n as a third number, so that it is augmented anew
Key = tuple[int, ...]


class Order(Protocol):
    """The samples of every epoch.

    Attributes:
        samples: of a pass.
    """

    samples: int

    def keys(self, epoch: int) -> list[Key]:
        """What a pass takes, in its order."""


@dataclass(frozen=True)
class Shuffled:
    """Every image once an epoch."""

    samples: int
    seed: int

    def keys(self, epoch: int) -> list[Key]:
        """A permutation of all images."""
        order = torch.randperm(self.samples, generator=generator_for(STREAM_ORDER, self.seed, epoch))
        return [(epoch, index) for index in order.tolist()]
