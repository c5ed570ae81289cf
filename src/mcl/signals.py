"""Signals that ask a run to stop: the step under way ends, a checkpoint is written."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mcl.errors import Interrupted

#: Ctrl-C; the end of a job; SLURM's warning before it (``--signal=USR1@60``); a terminal or connection that was lost
STOPPING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)
)
HANGUP = getattr(signal, "SIGHUP", None)


class StopWaiting(BaseException):
    """A signal came while the loop waited for data (no ``Exception``: image decoders catch those)."""


class Caught:
    """The first signal that came, if any.

    Args:
        alone: False for one of several processes: they stop together, after a step; and a signal that comes again
            does not kill, for launchers pass on what the terminal has sent already.
    """

    def __init__(self, alone: bool = True) -> None:
        self.alone = alone
        self.number: int | None = None
        self._waiting = False

    @contextmanager
    def while_waiting(self) -> Iterator[None]:
        """Inside, a signal raises ``StopWaiting`` at once: storage may hang, and nothing is lost by leaving."""
        self._waiting = True
        try:
            if self.number and self.alone:
                raise StopWaiting
            yield
        finally:
            self._waiting = False

    def note(self, number: int, _frame: object) -> None:
        """The handler: remember the signal; the same one again has its usual effect.

        (But for SIGHUP: when a terminal goes, kernel and shell both send one.)
        """
        first, self.number = self.number is None, self.number or number
        if not self.alone:
            return
        if number != HANGUP:
            signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
        if first and self._waiting:
            raise StopWaiting


@contextmanager
def catch_signals(alone: bool = True) -> Iterator[Caught]:
    """Collect the signals in ``STOPPING``; the same one a second time kills (``alone``: see ``Caught``)."""
    caught = Caught(alone)
    with handled_by(caught.note):
        yield caught


@contextmanager
def handled_by(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Inside, ``handler`` is called for the signals in ``STOPPING``; what ``nohup`` ignores stays ignored."""
    numbers = [n for n in STOPPING if n != HANGUP or signal.getsignal(n) != signal.SIG_IGN]
    try:
        previous = {number: signal.signal(number, handler) for number in numbers}
    except ValueError:  # not in the main thread: signals are the caller's
        yield
        return
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def signals_as_exception() -> Iterator[None]:
    """Inside, the signals in ``STOPPING`` raise ``Interrupted`` at once: for commands that wait for processes of theirs."""

    def stop(number: int, _frame: object) -> None:
        if number == HANGUP:  # often comes twice
            signal.signal(number, signal.SIG_IGN)
        raise Interrupted(f"stopped by {signal.Signals(number).name}", number)

    with handled_by(stop):
        yield
