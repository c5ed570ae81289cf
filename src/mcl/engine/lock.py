"""One run a folder: a lock that the kernel gives back when its process ends, however it ends."""

from __future__ import annotations

import errno
import os
import platform
import threading
from datetime import datetime
from pathlib import Path

from mcl.errors import UserError
from mcl.run_files import LOCK

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

#: what a file system without locks answers
WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}

_held: list[FolderLock] = []


class FolderLock:
    """A lock on a folder, until ``release`` or the end of the process.

    It is a POSIX record lock: loader processes do not inherit it (they live on for seconds after a kill -9 of their
    parent, and the run must be resumable at once), and NFS knows it. It does not keep a process from itself, so
    folders that this process holds are remembered.

    Attributes:
        warning: why there is no lock, if the file system has none.
    """

    def __init__(self, folder: Path) -> None:
        """Take the lock; ``folder`` must exist.

        Raises:
            UserError: another run holds it; says which.
            OSError: the folder cannot be written.
        """
        self.path, self.warning, self.thread = folder.resolve() / LOCK, None, threading.get_ident()
        if any(lock.path == self.path for lock in _held):
            raise UserError(f"--out {folder}: a run is going on in this folder, in this very process")
        self._file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115 (closed in release)
        try:
            self._lock()
        except (BlockingIOError, PermissionError):
            self._file.seek(0)
            owner = self._file.read().strip() or "another process"
            self._file.close()
            raise UserError(
                f"--out {folder}: a run is going on in this folder, in {owner}; wait for it, stop it, "
                "or choose another folder"
            ) from None
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                self._file.close()
                raise
            self.warning = (
                f"{folder}: no locks on this file system ({error.strerror}); start no second run in it"
            )
        self._note_owner()
        _held.append(self)

    def release(self) -> None:
        """Give the lock back; the file stays, for removing it would race with the next run."""
        self._file.close()
        if self in _held:
            _held.remove(self)

    def _lock(self) -> None:
        if fcntl is None:
            raise OSError(errno.ENOSYS, "none for Python on this system")
        fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _note_owner(self) -> None:
        """Who holds it, for the message of the next; a full disk is not the lock's business."""
        owner = f"process {os.getpid()} on {platform.node()} since {datetime.now():%Y-%m-%d %H:%M:%S}"
        try:
            self._file.truncate(0)
            self._file.write(owner + "\n")
            self._file.flush()
        except OSError:
            pass


def held_locks() -> tuple[FolderLock, ...]:
    """Locks that this thread took, the oldest first."""
    return tuple(lock for lock in _held if lock.thread == threading.get_ident())
