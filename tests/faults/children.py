"""Commands in processes of their own that can be killed, without importing torch anew for each.

A fork server imports everything once; each command is a fork of it. Faults that outsiders cannot cause (dying in the
middle of a write, a gradient of NaN) are functions of this file, called in the new process before the command.
"""

from __future__ import annotations

import functools
import io
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import gate
from tiny import TINY, wait_for_steps

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["mcl.run.pretrain", "mcl.run.finetune", "torch.utils.tensorboard"])
TIMEOUT = 300
LOGS = None  # the session's temporary folder, set by conftest


class Run:
    """An ``mcl`` command under way."""

    def __init__(
        self, out: Path, *words: str, command: str = "pretrain", fault: Callable[[], None] = int,
        hold: Sequence[int] = (),
    ) -> None:  # fmt: skip
        """``hold``: steps after which it waits for ``go``, if it gets there."""
        # Not below ``out``, which may be on a disk that is filled.
        self.out, self.log = out, Path(tempfile.mkdtemp(prefix="mcl-faults-", dir=LOGS)) / "log"
        tiny = TINY if command == "pretrain" else []
        argv = [command, *tiny, *words, "--out", str(out)]
        self.hold = hold
        self.process = SERVER.Process(target=_command, args=(argv, self.log, fault, hold))
        self.process.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def until(self, steps: int) -> Run:
        """Wait until this many lines of metrics are there."""
        wait_for_steps(self.out, steps, lambda: self.process.exitcode, TIMEOUT)
        return self

    def until_asleep(self) -> Run:
        """Wait until neither it nor a loader process computes, reads or waits for a core, for a second."""
        deadline, looks = time.monotonic() + TIMEOUT, []
        while len(looks) < 10 or len(set(looks[-10:])) > 1:
            assert self.process.exitcode is None and time.monotonic() < deadline, self.said
            asleep = all(_is_asleep(pid) for pid in [self.pid, *self.workers()])
            # A look that finds it awake equals no other.
            looks.append((self.out / "metrics.jsonl").stat().st_size if asleep else -len(looks) - 1)
            time.sleep(0.1)
        return self

    def signal(self, number: int, group: bool = False) -> Run:
        (os.killpg if group else os.kill)(self.pid, number)
        return self

    def go(self, *steps: int) -> Run:
        """Let it go on, from all steps of ``hold`` if none are given."""
        for step in steps or self.hold:
            gate.let_go(self.log.parent, step)
        return self

    def ends(self, seconds: float = TIMEOUT) -> int:
        """Its exit code."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"still running after {seconds} s: {self.said}")
        return self.process.exitcode

    @property
    def said(self) -> str:
        """Both streams."""
        return self.log.read_text(errors="replace")

    @property
    def error(self) -> str:
        """The one line that it ended with; there must be no traceback."""
        assert "Traceback" not in self.said, self.said
        lines = self.said.splitlines()
        assert lines and lines[-1].startswith("mcl: error: "), self.said
        return lines[-1]

    def workers(self) -> list[int]:
        return [
            int(pid) for task in Path(f"/proc/{self.pid}/task").iterdir()
            for pid in (task / "children").read_text().split()
        ]  # fmt: skip


def run(out: Path, *words: str, **more) -> Run:
    """Run a command to its end, which must be a good one."""
    process = Run(out, *words, **more)
    assert process.ends() == 0, process.said
    return process


def _is_asleep(pid: int) -> bool:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return all((task / "stat").read_text().rpartition(")")[2].split()[0] == "S" for task in tasks)


def _command(argv: list[str], log: Path, fault: Callable[[], None], hold: Sequence[int]) -> None:
    os.setsid()
    with open(log, "wb", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from mcl.cli import main

    # Loader processes as in a command started from a shell; they would inherit the fork server otherwise.
    multiprocessing.set_start_method("fork", force=True)
    gate.hold(log.parent, hold)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup, which a child inherits
    fault()
    sys.exit(main(argv))


def die_in_checkpoint(moment: str, checkpoint: int) -> Callable[[], None]:
    """kill -9 while this checkpoint (1: the first) is ``written``, ``synced`` or ``renamed``."""
    return functools.partial(_die_in_checkpoint, moment, checkpoint)


def _die_in_checkpoint(moment: str, checkpoint: int) -> None:
    from mcl.engine import checkpoint as module

    count = 0

    def save(content, file):
        nonlocal count
        count += 1
        whole = io.BytesIO()
        torch_save(content, whole)
        if count == checkpoint and moment == "written":
            file.write(whole.getvalue()[: whole.tell() // 2])
            file.flush()
            die()
        file.write(whole.getvalue())

    def before(function, name):
        def call(*args):
            if count == checkpoint and moment == name:
                die()
            return function(*args)

        return call

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    torch_save, module.torch.save = module.torch.save, save
    module.os.fsync = before(os.fsync, "synced")
    module._sync_folder = before(module._sync_folder, "renamed")


def storage_hangs_while(flag: Path) -> Callable[[], None]:
    """Every image that is opened while ``flag`` exists waits, as on a network disk that went away."""
    return functools.partial(_storage_hangs_while, flag)


def _storage_hangs_while(flag: Path) -> None:
    from mcl.data.loading import decode

    open_at_once = decode._open_without_waiting

    def open_some_day(path: str, flags: int) -> int:
        while flag.exists():
            time.sleep(0.05)
        return open_at_once(path, flags)

    decode._open_without_waiting = open_some_day


def no_room_for_stdout() -> None:
    """Standard output is a file on a full disk."""
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def output_is_not_read(*streams: int) -> Callable[[], None]:
    """These standard streams lead to a pipe that nobody reads any more, as when ``tee`` died."""
    return functools.partial(_output_is_not_read, streams)


def _output_is_not_read(streams: Sequence[int]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    for number in streams:
        os.dup2(writer, number)


def on_terminal(name: str) -> Callable[[], None]:
    """Standard output and error are this terminal, and it controls the process."""
    return functools.partial(_on_terminal, name)


def _on_terminal(name: str) -> None:
    terminal = os.open(name, os.O_RDWR)  # of a process that leads its session: the controlling one from now on
    os.dup2(terminal, 1)
    os.dup2(terminal, 2)


def under_nohup() -> None:
    """SIGHUP is ignored, as ``nohup`` has it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def poison_gradients(step: int) -> None:
    """In this process: from step ``step`` (0-based) on, the loss is fine and its gradient is NaN."""
    from mcl.methods.mcl.method import Mcl

    losses_of = Mcl.losses

    def losses(self, batch, now, micro_batches=1):
        for value, numbers in losses_of(self, batch, now, micro_batches):
            if now >= step:
                value.register_hook(lambda gradient: gradient * float("nan"))
            yield value, numbers

    Mcl.losses = losses
