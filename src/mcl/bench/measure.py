"""Times taken in turn: A, B, C, A, B, C ..., so that a slow minute of the machine hits all sides alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds of one side, one number a round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """(slowest - fastest) / median: with the few rounds of a bench, quartiles would hide an outlier."""
        return (max(self.seconds) - min(self.seconds)) / self.median


def in_turn(
    actions: Mapping[str, Callable[[], Any]],
    rounds: int,
    warmup: int = 1,
    wait: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Run every action ``warmup + rounds`` times, one after the other within a round.

    Args:
        actions: name -> what to time.
        wait: called before each clock reading; waits for a GPU.
        clock: seconds; of CPU time, for one thread on a machine that others use too.

    Returns:
        name -> its timed rounds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(warmup + rounds):
        for name, action in actions.items():
            wait()
            started = clock()
            action()
            wait()
            if number >= warmup:
                seconds[name].append(clock() - started)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def waiter(device: torch.device) -> Callable[[], None]:
    """What waits until ``device`` has done what it was given."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None
