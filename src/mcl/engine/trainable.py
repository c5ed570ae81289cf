"""What the loop is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from torch import Tensor


class Trainable(Protocol):
    """What the loop trains."""

    def train_step(self, batch: Any, step: int) -> dict[str, Tensor | float]:
        """One update; returns numbers to log, among them ``loss`` and ``lr``."""

    def measured(self, done: int) -> Mapping[str, float]:
        """Asked on rank 0, for all, after ``done`` steps, when a line is logged: numbers too dear for every step."""

    def logged(self, values: Mapping[str, float]) -> None:
        """Told the numbers of every logged line."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain types from which training continues exactly."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""


@dataclass(frozen=True)
class LoopSummary:
    """What a run cost, over all its resumptions."""

    steps: int
    images: int
    seconds: float
    images_per_second: float
    data_wait: float
    peak_memory_mb: float

    def as_dict(self) -> dict[str, float]:
        """For summary.json."""
        return asdict(self)
