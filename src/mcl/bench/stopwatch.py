"""When the parts of a running command start and end, as the command itself tells it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One part, from its beginning to its end."""

    label: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.start


class Stopwatch:
    """An ``mcl.engine.observer.Observer`` that notes when every span begins and ends.

    Args:
        wait: called at a span's end; waits for a GPU, so that its work is counted where it was given.
    """

    def __init__(self, wait: Callable[[], None] = lambda: None) -> None:
        self.wait = wait
        self.events: list[Event] = []

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Note the block as an event; one that an error ends is none."""
        start = time.perf_counter()
        yield
        self.wait()
        self.events.append(Event(name, start, time.perf_counter()))

    def of(self, label: str, start: float = 0.0, end: float = float("inf")) -> list[Event]:
        """Events of a label that begin within a span of time."""
        return [event for event in self.events if event.label == label and start <= event.start <= end]
