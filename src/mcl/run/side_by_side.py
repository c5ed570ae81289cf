"""Run several ``mcl`` commands at the same time, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from threading import Thread

from mcl.engine.logging import console
from mcl.errors import RunFailed
from mcl.signals import signals_as_exception

ERROR = "mcl: error: "


def run_side_by_side(commands: Mapping[str, Sequence[str]]) -> None:
    """Run commands to their end and show their output, each line behind its command's name.

    Small trainings hardly gain from a second thread; two processes of one thread each finish nearly twice as much.

    Args:
        commands: name -> arguments of ``mcl``.

    Raises:
        RunFailed: one of them failed (the others are stopped, and write their checkpoints).
        Interrupted: a signal came; it was passed on, and all have written their checkpoints.
    """
    width = max(map(len, commands))
    jobs = {name: _Job(f"{name:<{width}} │ ", arguments) for name, arguments in commands.items()}
    with signals_as_exception():
        try:
            for job in jobs.values():
                job.start()
            failed = _first_failure(jobs)
        finally:
            for job in jobs.values():
                job.stop()
    if failed:
        raise RunFailed(f"{failed}: {jobs[failed].error}")


class _Job:
    """One command under way."""

    def __init__(self, prefix: str, arguments: Sequence[str]) -> None:
        self.prefix, self.arguments = prefix, arguments
        self.error = "ended without a word"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        # In a session of its own: Ctrl-C reaches this process alone, which passes it on once.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mcl", *self.arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, encoding="utf-8", errors="replace", start_new_session=True,
        )  # fmt: skip
        self.reader = Thread(target=self._show, daemon=True)
        self.reader.start()

    def stop(self) -> None:
        """Ask it to end, if it has not, and wait until it has."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait()
        self.reader.join()

    def _show(self) -> None:
        for line in self.process.stdout:
            if line.startswith(ERROR):
                self.error = line.removeprefix(ERROR).strip()
            elif line.strip():
                console.print(self.prefix + line.rstrip(), markup=False)


def _first_failure(jobs: Mapping[str, _Job]) -> str | None:
    """Name of the first command that ends badly; None once all have ended well."""
    running = dict(jobs)
    while running:
        for name, job in list(running.items()):
            try:
                code = job.process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                continue
            job.reader.join()
            if code != 0:
                return name
            del running[name]
    return None
