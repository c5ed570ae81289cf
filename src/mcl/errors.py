"""The one exception that a user is meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake in the input that the user can mend.

    The message is one line: what is wrong, where (file, key, value) and how to mend it. The command
    line prints it without a traceback and exits with ``exit_code``; from Python it is an ordinary exception.
    """

    exit_code = 2


class RunFailed(UserError):
    """A run that started well and cannot go on (loss not finite, too many unreadable images, disk full)."""

    exit_code = 3


class OutOfMemory(RunFailed):
    """Memory ran out; whoever knows the command adds which of its settings need less."""


class WorkerDied(RunFailed):
    """A loader process ended before its work was done."""


class Interrupted(UserError):
    """A run that was asked to stop by a signal, after it wrote its checkpoint."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


@contextmanager
def about(setting: str) -> Iterator[None]:
    """Put ``setting`` in front of a ``UserError`` of the block.

    What reads an input tells what is wrong with it; which setting named it, only the caller knows.
    """
    try:
        yield
    except UserError as error:
        error.args = (f"{setting} {error}",)
        raise


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the nearest known name, or ``""`` when none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def printable(text: str) -> str:
    """``text`` with control characters, line ends and bytes that are no text written as escapes (``\\x1b``).

    For names that come from outside: a file's name cannot steer the terminal, break a list into other lines, or fail
    to be written at all.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
