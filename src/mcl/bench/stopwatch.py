"""Notes when functions of a running command start and end, without the command knowing."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Event:
    """One call."""

    label: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.start


class Stopwatch:
    """Within a ``with`` block, wraps functions; so what is measured is the command as it is shipped.

    Args:
        targets: (owner, attribute, label): a module's or class's function. If it returns an iterator, each
            ``next`` is an event instead of the call.
        wait: called when a function returns; waits for a GPU, so that its work is counted where it was given.
    """

    def __init__(
        self, targets: Sequence[tuple[Any, str, str]], wait: Callable[[], None] = lambda: None
    ) -> None:
        self.targets, self.wait = targets, wait
        self.events: list[Event] = []

    def __enter__(self) -> Stopwatch:
        self._originals = [(owner, name, getattr(owner, name)) for owner, name, _ in self.targets]
        for (owner, name, original), (_, _, label) in zip(self._originals, self.targets, strict=True):
            setattr(owner, name, self._wrap(original, label))
        return self

    def __exit__(self, *_) -> None:
        for owner, name, original in self._originals:
            setattr(owner, name, original)

    def of(self, label: str, start: float = 0.0, end: float = float("inf")) -> list[Event]:
        """Events of a label that begin within a span of time."""
        return [event for event in self.events if event.label == label and start <= event.start <= end]

    def _wrap(self, function: Callable, label: str) -> Callable:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **kwargs)
            if isinstance(result, Iterator):
                return self._timed_stream(result, label)
            self.wait()
            self.events.append(Event(label, start, time.perf_counter()))
            return result

        return timed

    def _timed_stream(self, stream: Iterator[Any], label: str) -> Iterator[Any]:
        while True:
            start = time.perf_counter()
            try:
                item = next(stream)
            except StopIteration:
                return
            self.events.append(Event(label, start, time.perf_counter()))
            yield item
