"""What a study will take: cells, FLOPs, hours."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from mcl.engine.logging import duration
from mcl.studies.jobs import Job
from mcl.studies.plan import Lines, Plan
from mcl.studies.tables import flops

LINE = "metrics.jsonl"


def forecast(plan: Plan, lines: Lines, trial_steps: int, threads: int) -> dict[str, Any]:
    """Rows of trainings, and seconds of what is left to do, one after the other.

    Seconds of a pre-training follow from its FLOPs, those of a fine-tuning from its steps, at the pace of what has
    been done; or of a trial of ``trial_steps``, where nothing has. (Of a study with trials that are not known yet, the
    first of each are counted.)
    """
    jobs = plan.jobs(lines)
    pace = {kind: _pace(jobs, lines, kind) for kind in ("pretrain", "finetune")}
    for kind, known in pace.items():
        first = next((job for job in jobs if job.command == kind and job.id not in lines), None)
        if known is None and trial_steps and first:
            pace[kind] = _trial(first, trial_steps, threads)
    rows = [_row(job, lines, pace) for job in jobs]
    left = [row["seconds"] for row in rows if not row["done"]]
    return {
        "cells": len(plan.cells), "trainings": len(jobs), "done": sum(row["done"] for row in rows), "rows": rows,
        "seconds": None if any(seconds is None for seconds in left) else sum(left),
    }  # fmt: skip


def forecast_table(told: Mapping[str, Any]) -> Table:
    """One row for what differs in labels, steps and seeds alone."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in told["rows"]:
        groups.setdefault((row["data"], row["start"], row["kind"], row["flops"]), []).append(row)
    table = Table(title="trainings", title_justify="left")
    for heading in ("data", "start", "", "steps", "FLOPs each", "how many", "done", "time each"):
        table.add_column(heading, justify="left" if heading in ("data", "start", "") else "right")
    for (data, start, kind, count), rows in groups.items():
        seconds = [row["seconds"] for row in rows if row["seconds"] is not None]
        steps = sorted({row["steps"] for row in rows if row["steps"]})
        table.add_row(
            data, start, kind, " ".join(f"{step:,}" for step in steps) or "-", flops(count) if count else "-",
            str(len(rows)), str(sum(row["done"] for row in rows)), duration(statistics.mean(seconds)) if seconds else "-",
        )  # fmt: skip
    return table


def _row(job: Job, lines: Lines, pace: Mapping[str, Any]) -> dict[str, Any]:
    length, steps = job.facts.get("length") if job.kind == "pretrain" else None, job.settings.schedule.steps
    rate, seconds = pace[job.command], None
    if rate is not None and length:
        seconds = rate["unit"] * length["flops"] + rate["rest"]
    elif rate is not None and steps:
        seconds = rate["unit"] * steps + rate["rest"]
    return {
        "id": job.id, "kind": job.kind, "data": job.facts["data"], "start": job.facts["start"], "steps": steps,
        "flops": length["flops"] if length else None, "seconds": seconds, "done": job.id in lines,
    }  # fmt: skip


def _pace(jobs: list[Job], lines: Lines, command: str) -> dict[str, float] | None:
    """Seconds of a FLOP or a step, and besides, of what is done."""
    units, rests = [], []
    for job in jobs:
        line = lines.get(job.id, {})
        if job.command != command or "cost" not in line:
            continue
        cost = line["cost"]
        units.append(cost["seconds"] / (job.facts["length"]["flops"] if command == "pretrain" else cost["steps"]))
        rests.append(cost.get("total_seconds", cost["seconds"]) - cost["seconds"])
    return {"unit": statistics.median(units), "rest": statistics.median(rests)} if units else None


def _trial(job: Job, steps: int, threads: int) -> dict[str, float] | None:
    """Pace of a few steps of one job, in a folder that is removed; None if it does not run."""
    with tempfile.TemporaryDirectory() as folder:
        loop = job.settings.loop.model_copy(update={"log_every": 1})
        schedule = job.settings.schedule.model_copy(update={"steps": steps + 1, "epochs": None, "warmup_steps": 0})
        # What lists of images or scenes it reads are written when it really starts; whole files do for a trial.
        changes: dict[str, Any] = {"out": Path(folder) / "run", "loop": loop, "schedule": schedule}
        changes |= _whole(job) | ({"eval_every": None, "trunk": "none", "freeze": "none"} if job.command == "finetune" else {})
        trial = Job(job.id, job.kind, job.title, job.command, job.settings.model_copy(update=changes))
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        began = time.perf_counter()
        done = subprocess.run(trial.words(), capture_output=True, env=environment, check=False)
        whole = time.perf_counter() - began
        if done.returncode:
            return None
        rows = [json.loads(line) for line in (trial.folder / LINE).read_text("utf-8").splitlines()]
        # The first step waits for the loader's processes to start.
        each = statistics.median(trial.settings.batch / row["images_per_second"] for row in rows[1:])
        length = job.facts["length"] if job.command == "pretrain" else None
        cost = length["flops"] / length["steps"] if length else 1.0
        return {"unit": each / cost, "rest": max(0.0, whole - each * len(rows))}


def _whole(job: Job) -> dict[str, Any]:
    if "source" not in job.facts:
        return {}
    return {"data": job.facts["source"]} if job.command == "pretrain" else {"train": Path(job.facts["source"])}
