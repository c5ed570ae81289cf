"""``mcl compare``: a study from its YAML to tables and curves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from mcl.config.compare import CompareSettings
from mcl.engine.lock import FolderLock
from mcl.engine.logging import console, duration
from mcl.engine.run_folder import RunFolder
from mcl.errors import RunFailed, UserError
from mcl.run.guard import guarded
from mcl.run.see import tell_report
from mcl.studies.book import Book
from mcl.studies.figures import draw_figures
from mcl.studies.forecast import forecast, forecast_table
from mcl.studies.plan import Plan
from mcl.studies.results import results_of
from mcl.studies.runner import Runner
from mcl.studies.status import Status
from mcl.studies.study import read_study
from mcl.studies.tables import costs, headings_and_rows, to_rich, trial_rows

WIDTH = 160  # columns of a table in a log
BOOK, RESULTS, FIGURES, RESAMPLED = "cells.jsonl", "results.json", "figures", "resampled"


@guarded
def compare(settings: CompareSettings) -> dict[str, Any]:
    """Run what of a study is not done yet, then write ``results.json`` and ``figures/`` and print the table.

    Stopped in whatever way, the next call goes on: finished cells are kept, others continue from their checkpoints.

    Returns:
        What ``results.json`` holds; with ``dry_run`` the forecast.

    Raises:
        UserError: a mistake in the study, data that is not there, or another run of it going on.
        RunFailed: cells failed (told at the end; all others have been run).
        Interrupted: by SIGINT or SIGTERM; the trainings under way have written checkpoints.
    """
    with _wide_in_a_log():
        return _compare(settings)


def _compare(settings: CompareSettings) -> dict[str, Any]:
    study = read_study(settings.study)
    out = settings.out or Path("runs/studies") / settings.study.stem
    plan = Plan(study, settings.study, settings.runs or out / "runs", settings.threads)
    if settings.dry_run:
        return _dry_run(plan, Book(out / BOOK, write=False), settings)
    plan.require_data()
    jobs = plan.jobs({})  # finds mistakes in settings before anything is written
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror}") from None
    FolderLock(out)  # given back by the guard
    book = Book(out / BOOK)
    done = sum(job.id in book for job in jobs)
    console.print(f"{settings.study}: {len(plan.cells)} cells; {done} of {len(jobs)} trainings are done", markup=False)
    with Status() as status:
        runner = Runner(plan, book, out / RESAMPLED, settings.parallel, settings.threads, status.tell, status.look)
        runner.run()
    results = _report(plan, book, out, settings)
    if runner.failed:
        title = {job.id: job.title for job in runner.jobs}
        told = "; ".join(f"{title[name]}: {reason}" for name, reason in list(runner.failed.items())[:5])
        raise RunFailed(f"{len(runner.failed)} trainings failed, the next call tries them again: {told}")
    return results


def _report(plan: Plan, book: Book, out: Path, settings: CompareSettings) -> dict[str, Any]:
    results = {"study": settings.study.stem, **results_of(plan, book.lines, out / RESAMPLED)}
    folder = RunFolder(out)
    folder.write_json(RESULTS, results)
    if settings.json_file:
        RunFolder(settings.json_file.parent).write_json(settings.json_file.name, results)
    if results["rows"]:
        found = f"AP in percent, mean and 95 % interval ({results['resamples']:,} resamples of seeds and test images)"
        console.print(to_rich(*headings_and_rows(results), found))
        console.print(to_rich(*costs(results), "cost, measured; FLOPs counted"))
    if results["trials"]:
        told = "trials, the best first; box AP in percent on the validation scenes"
        console.print(to_rich(*trial_rows(results["trials"]), told))
        for start, recipe in best_recipes(results).items():
            console.print(f"best of {start}: {recipe}", markup=False)
        folder.write_text("best.yaml", yaml.safe_dump(best_recipes(results), sort_keys=False))
    drawn = draw_figures(results, out / FIGURES) if settings.figures else []
    for path in [out / RESULTS, *drawn]:
        console.print(f"  {path}", markup=False)
    tell_report(out)
    return results


@contextmanager
def _wide_in_a_log() -> Iterator[None]:
    """Tables in a file have no terminal's width to keep to."""
    before = console.width
    if not console.is_terminal:
        console.width = max(before, WIDTH)
    try:
        yield
    finally:
        if not console.is_terminal:
            console.width = before


def best_recipes(results: dict[str, Any]) -> dict[str, Any]:
    """data/start -> the settings of its best trial (of a search's last rung)."""
    found: dict[str, Any] = {}
    for trial in results["trials"]:
        found.setdefault(f"{trial['data']}/{trial['start']}", trial["chosen"])
    return found


def _dry_run(plan: Plan, book: Book, settings: CompareSettings) -> dict[str, Any]:
    missing = plan.missing()
    told = forecast(plan, book.lines, 0 if missing else settings.trial_steps, settings.threads)
    console.print(forecast_table(told))
    if missing:
        console.print(f"not there yet: {', '.join(map(str, missing))}", markup=False)
    hours = told["seconds"] / settings.parallel if told["seconds"] is not None else None
    left = "" if hours is None else f"; about {duration(hours)} with {settings.parallel} at a time"
    console.print(f"{told['cells']} cells, {told['trainings']} trainings, {told['done']} of them done{left}", markup=False)
    return told
