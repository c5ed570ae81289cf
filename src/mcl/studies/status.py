"""What a study shows while it runs: a table on a terminal, a line for each start and end elsewhere."""

from __future__ import annotations

import time

from rich.live import Live
from rich.table import Table

from mcl.engine.logging import console, duration
from mcl.studies.collect import progress
from mcl.studies.jobs import Job
from mcl.studies.runner import Runner

KINDS = {"pretrain": "pre-training", "teacher": "positive control", "trial": "trial", "cell": "cell"}
REDRAW_SECONDS = 2.0


class Status:
    """``tell`` and ``look`` for a runner; a context manager."""

    def __init__(self) -> None:
        self.live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self.drawn = 0.0

    def __enter__(self) -> Status:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_) -> None:
        if self.live:
            self.live.stop()

    def tell(self, text: str) -> None:
        """A job starts or ends."""
        console.print(text, markup=False, style="red" if text.startswith("FAILED") else None)
        self.drawn = 0.0

    def look(self, runner: Runner) -> None:
        """Draw the table anew, if it is time to."""
        if self.live and time.monotonic() - self.drawn > REDRAW_SECONDS:
            self.drawn = time.monotonic()
            self.live.update(status_table(runner), refresh=True)


def status_table(runner: Runner) -> Table:
    """Done, at work, to come and failed of each kind, and how far the ones at work are."""
    table = Table(title="study", title_justify="left", show_edge=False)
    for heading in ("", "done", "at work", "to come", "failed", "median", "left"):
        table.add_column(heading, justify="left" if not heading else "right")
    waiting = runner.waiting()
    for kind, name in KINDS.items():
        jobs = [job for job in runner.jobs if job.kind == kind]
        if not jobs:
            continue
        done = sum(job.id in runner.book and "failed" not in runner.book.lines[job.id] for job in jobs)
        at_work = sum(running.job.kind == kind for running in runner.running)
        to_come = sum(job.kind == kind for job in waiting)
        failed = len(jobs) - done - at_work - to_come
        took = sorted(runner.took.get(kind, []))
        median = took[len(took) // 2] if took else None
        left = median * (to_come + at_work / 2) / runner.parallel if median else None
        table.add_row(
            name, str(done), str(at_work), str(to_come), str(failed) if failed else "-",
            duration(median) if median else "-", duration(left) if left else "-",
        )  # fmt: skip
    for running in runner.running:
        table.add_row(f"  {running.job.title}", "", _how_far(running.job), "", "", duration(time.monotonic() - running.since), "")
    return table


def _how_far(job: Job) -> str:
    total = job.settings.schedule.steps
    done = progress(job)
    return f"{done:,}/{total:,}" if total else f"{done:,}"
