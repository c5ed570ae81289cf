"""Around every command that writes a run folder: its lock is given back, and what the machine refuses is one line."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from safetensors import SafetensorError

from mcl.engine.lock import FolderLock, held_locks
from mcl.engine.machine.memory import describe_out_of_memory, is_out_of_memory
from mcl.engine.run_folder import RunFolder
from mcl.errors import OutOfMemory, RunFailed

Command = TypeVar("Command", bound=Callable[..., Any])
#: what a machine answers when it cannot keep a file, and no setting of ours is wrong
REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE}


def guarded(command: Command) -> Command:
    """Decorate a command.

    The decorated command raises ``RunFailed`` for a full or read-only disk (a checkpoint that cannot be written is
    the loop's business), and ``OutOfMemory`` wherever memory runs out, with the settings that need less; a folder in
    which nothing was trained until then does not stand in the next try's way.
    """

    @functools.wraps(command)
    def guarded_command(settings: Any, **options: Any) -> Any:
        before = held_locks()
        try:
            return command(settings, **options)
        except SafetensorError as error:
            raise RunFailed(_refused(settings, " ".join(str(error).split()))) from None
        except Exception as error:
            if is_out_of_memory(error):
                _forget_attempt(before)
                raise OutOfMemory(f"{describe_out_of_memory(error)}; try {_advice(settings)}") from None
            if isinstance(error, OSError) and error.errno in REFUSALS:
                what = f"{error.filename or 'a file'}: {error.strerror}"
                raise RunFailed(_refused(settings, what)) from None
            raise
        finally:
            for lock in _taken_since(before):
                lock.release()

    return guarded_command


def _taken_since(before: tuple[FolderLock, ...]) -> Iterator[FolderLock]:
    return (lock for lock in held_locks() if lock not in before)


def _forget_attempt(before: tuple[FolderLock, ...]) -> None:
    for lock in _taken_since(before):
        folder = RunFolder(lock.path.parent)
        if folder.has_nothing_done:
            folder.forget_attempt()


def _advice(settings: Any) -> str:
    """What of a command's own settings would need less memory."""
    advice = [f"a smaller --batch (now {settings.batch})"]
    if hasattr(settings, "accumulate"):  # pre-training alone computes in pieces, or twice
        advice.append(f"more --accumulate (now {settings.accumulate})")
        advice += ["--loop.activation_checkpointing true"] * (not settings.loop.activation_checkpointing)
    return ", ".join(advice[:-1]) + " or " * (len(advice) > 1) + advice[-1]


def _refused(settings: Any, what: str) -> str:
    return f"--out {settings.out}: could not be written ({what}); make room and start it again; a training run continues with --resume"
