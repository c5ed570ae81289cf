"""Around every command that writes a run folder: its lock is given back, and what the machine refuses is one line."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
from typing import Any, TypeVar

from safetensors import SafetensorError

from mcl.engine.lock import held_locks
from mcl.errors import RunFailed

Command = TypeVar("Command", bound=Callable[..., Any])
#: what a machine answers when it cannot keep a file, and no setting of ours is wrong
REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE}


def guarded(command: Command) -> Command:
    """Decorate a command.

    The decorated command raises ``RunFailed`` for a full or read-only disk (a checkpoint that cannot be written is
    the loop's business).
    """

    @functools.wraps(command)
    def guarded_command(settings: Any, **options: Any) -> Any:
        before = held_locks()
        try:
            return command(settings, **options)
        except OSError as error:
            if error.errno not in REFUSALS:
                raise
            raise RunFailed(_refused(settings, f"{error.filename or 'a file'}: {error.strerror}")) from None
        except SafetensorError as error:
            raise RunFailed(_refused(settings, " ".join(str(error).split()))) from None
        finally:
            for lock in held_locks():
                if lock not in before:
                    lock.release()

    return guarded_command


def _refused(settings: Any, what: str) -> str:
    return f"--out {settings.out}: could not be written ({what}); make room and start it again; a training run continues with --resume"
