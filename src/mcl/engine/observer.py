"""What a run lets others see of its time: when each of its parts begins and ends."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

#: names of spans: the whole loop, and inside it, for every step, the others (a checkpoint when one is written)
LOOP, DATA, STEP, LOGGING, CHECKPOINT = "whole loop", "data wait", "model's step", "logging", "checkpoint"


class Observer(Protocol):
    """Told by ``run_loop`` what it is doing; ``mcl bench loop`` times it."""

    def span(self, name: str) -> AbstractContextManager[Any]:
        """Entered when a part of the loop begins, left when it ends, be it with an error.

        Args:
            name: ``LOOP``, ``DATA``, ``STEP``, ``LOGGING`` or ``CHECKPOINT``.
        """


class Nobody:
    """Looks at nothing."""

    def span(self, name: str) -> AbstractContextManager[Any]:
        """A block that does nothing."""
        return nullcontext()
