"""Runs the trainings of a study, several at a time, each in a process of its own; whatever ends, the next call goes on.

A training counts once its line is in the book. What was broken off goes on from its checkpoint. What is still at work
in its folder (the runner alone was killed) is waited for.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mcl.engine.lock import FolderLock
from mcl.errors import RunFailed, UserError
from mcl.signals import signals_as_exception
from mcl.studies.book import Book
from mcl.studies.collect import failed_line, line_of
from mcl.studies.jobs import Job
from mcl.studies.plan import Plan

ERROR = "mcl: error: "
LOOK_SECONDS = 0.2


@dataclass
class Running:
    """A job under way."""

    job: Job
    process: subprocess.Popen
    since: float = field(default_factory=time.monotonic)


class Runner:
    """Works through a plan.

    Args:
        book: gets a line for each job that is done.
        resampled: folder for APs of resampled test images.
        parallel: jobs at a time.
        threads: of each.
        tell: called with a line for each job that starts or ends.
        look: called again and again while jobs run.
    """

    def __init__(
        self, plan: Plan, book: Book, resampled: Path, parallel: int, threads: int,
        tell: Callable[[str], None] = lambda text: None, look: Callable[[Runner], None] = lambda runner: None,
    ) -> None:  # fmt: skip
        self.plan, self.book, self.resampled = plan, book, resampled
        self.parallel, self.threads, self.tell, self.look = parallel, threads, tell, look
        self.running: list[Running] = []
        self.failed: dict[str, str] = {}  # id -> reason
        self.took: dict[str, list[float]] = {}  # kind -> seconds of those that ran here
        self.jobs: list[Job] = []

    def run(self) -> None:
        """Until nothing is left that can be run.

        Raises:
            Interrupted: SIGINT or SIGTERM came; it was passed on, and all have written their checkpoints.
        """
        with signals_as_exception():
            try:
                moved = True
                while moved or self.running:
                    self.jobs = self.plan.jobs(self.book.lines)
                    moved = self._start_what_is_ready()
                    self._wait_for_one()
            finally:
                self._stop_all()

    def waiting(self) -> list[Job]:
        """Jobs that are neither done, nor at work, nor failed, nor in need of a failed one."""
        at_work = {running.job.id for running in self.running}
        return [
            job for job in self.jobs
            if job.id not in self.book and job.id not in at_work and job.id not in self.failed and not self._lost(job)
        ]  # fmt: skip

    def _lost(self, job: Job) -> bool:
        """Whether a job needs one that failed."""
        return any(need in self.failed or self.book.lines.get(need, {}).get("failed") for need in job.needs)

    def _start_what_is_ready(self) -> bool:
        """Start jobs while there is room; whether anything has changed, or an earlier call's process may change it."""
        busy = moved = False
        for job in self.waiting():
            if len(self.running) >= self.parallel:
                break
            if not all(need in self.book for need in job.needs):
                continue
            if job.summary is not None:  # it ended, and a kill came before its line
                self._note(job)
                moved = True
            elif _at_work_elsewhere(job):
                busy = True
            else:
                self._start(job)
                moved = True
        if busy and not self.running:
            self.look(self)
            time.sleep(1)
        return busy or moved

    def _start(self, job: Job) -> None:
        try:
            words = job.words()
        except UserError as error:
            self._fail(job, str(error), final=False)
            return
        threads = str(self.threads)
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "COLUMNS": "120"}
        # Its output goes to a file: it outlives this process. A session of its own: Ctrl-C is passed on once.
        with open(job.log, "ab") as log:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=environment
            )  # fmt: skip
        self.running.append(Running(job, process))
        self.tell(f"start  {job.title}{' (goes on)' if '--resume' in words else ''}")

    def _wait_for_one(self) -> None:
        while self.running:
            for running in list(self.running):
                code = running.process.poll()
                if code is not None:
                    self.running.remove(running)
                    self._ended(running, code)
                    return
            self.look(self)
            time.sleep(LOOK_SECONDS)

    def _ended(self, running: Running, code: int) -> None:
        job = running.job
        if code == 0 and job.summary is not None:
            self.took.setdefault(job.kind, []).append(time.monotonic() - running.since)
            self._note(job)
        else:
            reason = last_words(job.log) or f"ended with exit code {code} without a word"
            self._fail(job, reason, final=job.may_fail and code == RunFailed.exit_code)

    def _note(self, job: Job) -> None:
        try:
            line = line_of(job, self.plan.study.resamples, self.resampled)
        except (UserError, ValueError, KeyError) as error:
            self._fail(job, f"{job.folder}: its results cannot be read ({' '.join(str(error).split())})", final=False)
            return
        self.book.add(line)
        found = line["result"].get("box_AP")
        self.tell(f"done   {job.title}" + (f": box AP {100 * found:.1f}" if found is not None else ""))

    def _fail(self, job: Job, reason: str, final: bool) -> None:
        if final:
            self.book.add(failed_line(job, reason))
        else:
            self.failed[job.id] = reason
        self.tell(f"FAILED {job.title}: {reason} ({job.log})")

    def _stop_all(self) -> None:
        for running in self.running:
            if running.process.poll() is None:
                running.process.terminate()
        for running in self.running:
            running.process.wait()
        self.running = []


def last_words(log: Path) -> str:
    """What a failed command said last: its error, else its last line."""
    lines = log.read_text("utf-8", errors="replace").splitlines() if log.is_file() else []
    told = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
    full = [line.strip() for line in lines if line.strip()]
    return (told or full or [""])[-1][:300]


def _at_work_elsewhere(job: Job) -> bool:
    if not (job.folder / ".lock").is_file():
        return False
    try:
        FolderLock(job.folder).release()
    except UserError:
        return True
    return False
