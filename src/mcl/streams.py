"""Standard streams that were closed, or lead to a pipe, a terminal or a disk that went away: a run goes on without."""

from __future__ import annotations

import os
import sys
from typing import IO, Any


def open_closed_streams() -> None:
    """Let standard streams that are closed (``mcl ... >&-``) lead to nowhere.

    Python has none for them then, and the next file that is opened, a checkpoint say, would get the number of one and
    with it what libraries print there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115


def lead_to_nowhere(stream: IO[str]) -> None:
    """What is written to a stream from now on, and what still waits in its buffer, is dropped."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class Unbreakable:
    """A text stream to which writing never fails; the rest is the stream's own.

    For a pipe that broke this is said once on standard error, and nothing more is tried; a full disk may have room
    again.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As of any stream; what cannot be written is lost."""
        return self._try(self._stream.write, text) or 0

    def flush(self) -> None:
        """As of any stream."""
        self._try(self._stream.flush)

    def _try(self, function: Any, *values: Any) -> Any:
        try:
            return function(*values)
        except BrokenPipeError:
            lead_to_nowhere(self._stream)
            tell("mcl: nobody reads the output any more; going on without it")
        except OSError:
            pass
        return None


def tell(line: str) -> None:
    """Print a line on standard error, if anybody is there."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:  # Python would try again when it ends, and end with an error of its own
        lead_to_nowhere(sys.stderr)
