"""The processes of one run as a whole: they start together, and when one fails all end, with its message alone.

The first process that fails says so in the store through which the processes found each other; a thread of every
other process looks there twice a second and ends its process without a word. So no process waits in an exchange for
one that is gone, whoever started them (torchrun, srun).
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist

from mcl.engine.logging import console
from mcl.engine.processes.distributed import process_count
from mcl.engine.processes.launch import Place, find_place
from mcl.errors import Interrupted, RunFailed, UserError

HERE, FAILED, SEEN = "here", "failed", "seen"
MEET_SECONDS, EXCHANGE_SECONDS = 300, 3600
LOOK_SECONDS, GRACE_SECONDS = 0.5, 5
LOST_SECONDS = 20  # how long the store may be out of reach before its process counts as dead
LATE_SECONDS = 3  # how long a broken connection waits for the message of the process that broke it


@contextmanager
def joined(device_type: str) -> Iterator[None]:
    """Run a block as one of the processes that the launcher started; alone, nothing happens.

    Inside, ``mcl.engine.processes.distributed`` works, and processes other than rank 0 print nothing. Of errors that leave the
    block only the first of all processes does; the other processes end with its exit code.

    Args:
        device_type: ``cuda`` (nccl for what is on the GPU) or ``cpu`` (gloo alone).

    Raises:
        UserError: the environment's variables make no sense, or the other processes do not come.
    """
    place = find_place()
    if place.count == 1 or process_count() > 1:  # alone, or inside a caller's block
        yield
        return
    board = _Board(place)
    _start(place, board, device_type)
    quiet, console.quiet = console.quiet, place.rank > 0
    if place.rank > 0:
        warnings.simplefilter("ignore")  # rank 0 shows the same
    listener = _FailureListener(board)
    listener.start()
    try:
        yield
    except Interrupted as error:  # all stop at the same step
        listener.stop()
        if place.rank > 0:
            raise SystemExit(error.exit_code) from None
        raise
    except BaseException as error:
        raise _told(error, place, board, listener) from None
    else:
        listener.stop()
        dist.destroy_process_group()
    finally:
        console.quiet = quiet


def leave(exit_code: int) -> int:
    """End the process now if it was one of several and failed; otherwise hand the exit code back.

    (An interpreter that shuts down in good order would wait for exchanges that nobody answers any more.)
    """
    if process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    return exit_code


class _Board:
    """The store of the job, for one key: who failed, with which exit code."""

    _stores: tuple[dist.Store, dist.Store] | None = None  # kept while the process lives: others may still look
    _blocks = 0

    def __init__(self, place: Place) -> None:
        self.place = place
        self.agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        if _Board._stores is None:
            # Two clients: an exchange may hold one of them for long.
            _Board._stores = self._connect(place.rank == 0 and not self.agent), self._connect(False)
        _Board._blocks += 1  # each block, and each restart by torchrun, has keys of its own
        prefix = f"mcl/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{_Board._blocks}"
        self.exchange, self._mine = (dist.PrefixStore(prefix, store) for store in _Board._stores)
        self._has_seen = False

    def _connect(self, host: bool) -> dist.Store:
        wait, place = timedelta(seconds=MEET_SECONDS), self.place
        try:
            return dist.TCPStore(place.address, place.port, is_master=host, timeout=wait, wait_for_workers=False)
        except (RuntimeError, OSError) as error:  # torch's errors of stores are RuntimeErrors
            raise UserError(
                f"rank {place.rank} of {place.count} finds no rank 0 at {place.address}:{place.port}: {_short(error)}"
            ) from None

    def wait_for_everyone(self) -> None:
        """Until all processes have started."""
        end, there = time.monotonic() + MEET_SECONDS, self._mine.add(HERE, 1)
        while there < self.place.count:
            if time.monotonic() > end:
                raise UserError(
                    f"rank {self.place.rank} of {self.place.count}: only {there} processes have come within "
                    f"{MEET_SECONDS} s; were all of them started with the same address and port?"
                )
            time.sleep(0.05)
            there = self._mine.add(HERE, 0)

    def claim(self, exit_code: int) -> bool:
        """Say that this process failed; whether it is the first."""
        mine = json.dumps({"rank": self.place.rank, "exit_code": exit_code})
        return self._mine.compare_set(FAILED, "", mine) == mine.encode()

    def failure(self) -> dict[str, int] | None:
        """Who failed."""
        return json.loads(self._mine.get(FAILED)) if self._mine.check([FAILED]) else None

    def failure_soon(self, seconds: float) -> dict[str, int] | None:
        """Who failed, or fails within so many seconds."""
        end = time.monotonic() + seconds
        while (failure := self.failure()) is None and time.monotonic() < end:
            time.sleep(0.1)
        return failure

    def wait_until_seen(self, others: int) -> None:
        """If the store lives in this process, keep it until so many others have read it (one that is slow is given
        time: without the store it would tell an error of its own)."""
        end = time.monotonic() + 2 * GRACE_SECONDS
        if self.place.rank == 0 and not self.agent:
            while self._mine.add(SEEN, 0) < others and time.monotonic() < end:
                time.sleep(0.1)

    def seen(self) -> None:
        """This process has read who failed (its listener or, then or before, its main thread)."""
        if not self._has_seen:
            self._has_seen = True
            self._mine.add(SEEN, 1)


class _FailureListener(threading.Thread):
    """Ends this process when another one has failed."""

    def __init__(self, board: _Board) -> None:
        super().__init__(daemon=True, name="mcl-listener")
        self.board, self._over = board, threading.Event()

    def stop(self) -> None:
        self._over.set()

    def run(self) -> None:
        lost_since = None
        while not self._over.wait(LOOK_SECONDS):
            try:
                failure, lost_since = self.board.failure(), None
                if failure is not None:
                    self.board.seen()
            except (RuntimeError, OSError):
                lost_since = lost_since or time.monotonic()
                failure = {"exit_code": RunFailed.exit_code} if _passed(lost_since) else None
            # The process that failed goes first, so that the launcher names it.
            if failure is not None and not self._over.wait(GRACE_SECONDS):
                os._exit(failure["exit_code"])


def _passed(since: float) -> bool:
    return time.monotonic() - since > LOST_SECONDS


def _start(place: Place, board: _Board, device_type: str) -> None:
    backend = "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo"
    board.wait_for_everyone()
    try:
        dist.init_process_group(
            backend, store=board.exchange, rank=place.rank, world_size=place.count,
            timeout=timedelta(seconds=EXCHANGE_SECONDS),
        )  # fmt: skip
    except RuntimeError as error:
        raise UserError(f"rank {place.rank} of {place.count} cannot start {backend}: {_short(error)}") from None


def _told(error: BaseException, place: Place, board: _Board, listener: _FailureListener) -> BaseException:
    """The error to raise if this process failed first; otherwise the process ends here, without a word."""
    code = getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1)
    broken = isinstance(error, RuntimeError) and _is_connection(error)
    listener.stop()  # it would take this process's own claim for another's, if the main thread is slow to go on
    try:
        first = None
        if broken:  # by a process whose message may be on its way
            error = RunFailed(f"another process of this run died without a message ({_short(error)})")
            code = error.exit_code
            first = board.failure_soon(LATE_SECONDS)
        if first or not board.claim(code):
            code = board.failure()["exit_code"]
            board.seen()
            time.sleep(GRACE_SECONDS)
            os._exit(code)
        board.wait_until_seen(place.count - 1 - broken)  # the one that broke it is gone
    except (RuntimeError, OSError):  # the store is gone, and rank 0 with it: one of the others has to tell it
        if place.rank > 1:
            os._exit(code)
    if isinstance(error, UserError) and place.rank > 0:
        error.args = (f"rank {place.rank} of {place.count}: {error}",)
    elif hasattr(error, "add_note"):
        error.add_note(f"(rank {place.rank} of {place.count})")
    return error


def _is_connection(error: RuntimeError) -> bool:
    text = str(error)
    return isinstance(error, dist.DistError) or any(
        word in text for word in ("gloo", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
    )


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
