"""Loader processes: which signals they answer to, and how their death is told."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from typing import Any

from torch.utils.data import DataLoader

from mcl.errors import WorkerDied
from mcl.signals import STOPPING

HINTS = {"SIGKILL": " (out of memory?)", "SIGBUS": " (too little shared memory, /dev/shm?)"}


def prepare_worker(_worker: int) -> None:
    """``worker_init_fn``: leave stopping to the training process, in silence.

    Ctrl-C and SLURM's SIGUSR1 reach all processes of a job. SIGTERM is not ignored: it is how torch ends a worker that
    hangs. When the training process leaves, the thread that hands tensors over may be in the middle of one.
    """
    for number in STOPPING:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    shown = sys.excepthook
    sys.excepthook = lambda kind, error, trace: None if _hung_up(error) else shown(kind, error, trace)


def _hung_up(error: BaseException) -> bool:
    """Whether the other side of a connection left: reset, closed, or (an OSError without a number) closed half-way."""
    return isinstance(error, ConnectionError | EOFError) or (isinstance(error, OSError) and error.errno is None)


def batches_of(loader: DataLoader) -> Iterator[Any]:
    """The loader's batches; its processes begin with ``prepare_worker``.

    Raises:
        WorkerDied: asked for a batch, which is within seconds of the death.
    """
    loader.worker_init_fn = prepare_worker
    before = active_children()
    with _held_signals():
        iterator = iter(loader)
    workers = [child for child in active_children() if child not in before]
    if workers:
        _notice_deaths_only_here()
    try:
        yield from iterator
    except (RuntimeError, OSError, EOFError) as error:
        # A batch that waits to be fetched is lost with its worker: then it is the connection that fails.
        if not (code := _exit_code(workers)) and not str(error).startswith("DataLoader worker (pid"):
            raise
        raise WorkerDied(f"a loader process {_ending(code)}") from None


@contextmanager
def _held_signals() -> Iterator[None]:
    """Inside, signals wait: a process that starts has the training's handlers until ``prepare_worker``, and would
    print a traceback of them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _exit_code(workers: list[BaseProcess]) -> int:
    """Of the first worker that ended badly; 0: of none."""
    for worker in workers:
        worker.join(0.1)
    return next((worker.exitcode for worker in workers if worker.exitcode), 0)


def _notice_deaths_only_here() -> None:
    """Take away torch's handler of SIGCHLD.

    It raises wherever the training process is at that moment, for instance between the optimizer's step and the
    target's; then there is no whole step to save. Without it, a worker's death is noticed when a batch is asked for.
    """
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _ending(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        return f"was killed by {name}{HINTS.get(name, '')}"
    return f"ended unexpectedly (exit code {code})"
