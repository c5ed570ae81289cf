"""What a study has found, as plain types: a row for each group of cells that differ in seeds alone."""

from __future__ import annotations

import statistics as plain
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mcl.studies.cells import Cell
from mcl.studies.collect import METRICS, read_resampled
from mcl.studies.plan import Lines, Plan, score_of
from mcl.studies.statistics import Estimate, Sample, difference, mean, share_of_way


def results_of(plan: Plan, lines: Lines, resampled: Path) -> dict[str, Any]:
    """Rows, curves and trials of what is done.

    Args:
        resampled: folder of ``write_resampled``.
    """
    study = plan.study
    content = {
        "about": study.about, "reference": study.reference, "control": study.control, "resamples": study.resamples,
        "budget": study.budget.model_dump() if study.budget else None, "rows": [], "trials": [],
    }  # fmt: skip
    if study.search:
        content["trials"] = _trials(plan, lines)
        return content
    groups = _groups(plan, lines)
    samples = {name: {m: _sample(cells, lines, resampled, m) for m in METRICS} for name, cells in groups.items()}
    for name, cells in groups.items():
        content["rows"].append(_row(plan, name, cells, samples, lines))
    content["trials"] = _trials(plan, lines) if study.tune else []
    return content


Group = Mapping[Cell, str]  # cell -> id of its line


def _groups(plan: Plan, lines: Lines) -> dict[tuple[Any, ...], Group]:
    """Cells that are done, by what they have in common; only those that have every seed of pre-training."""
    groups: dict[tuple[Any, ...], dict[Cell, str]] = {}
    for cell, job in plan.cell_jobs(lines).items():
        if job in lines and "failed" not in lines[job]:
            groups.setdefault(cell.group, {})[cell] = job
    for name, cells in list(groups.items()):
        wanted = {cell.pretrain_seed for cell in cells}
        whole = {seed for seed in {c.seed for c in cells} if {c.pretrain_seed for c in cells if c.seed == seed} == wanted}
        groups[name] = {cell: job for cell, job in cells.items() if cell.seed in whole}
        if not groups[name]:
            del groups[name]
    return groups


def _sample(cells: Group, lines: Lines, resampled: Path, metric: str) -> Sample | None:
    if any(lines[job]["result"].get(metric) is None for job in cells.values()):
        return None
    pretrain = sorted({cell.pretrain_seed for cell in cells}, key=lambda seed: -1 if seed is None else seed)
    seeds = sorted({cell.seed for cell in cells})
    by_place = {(cell.pretrain_seed, cell.seed): job for cell, job in cells.items()}
    point = np.array([[lines[by_place[p, f]]["result"][metric] for f in seeds] for p in pretrain])
    draws = np.array([[read_resampled(resampled / f"{by_place[p, f]}.npz")[metric] for f in seeds] for p in pretrain])
    return Sample(point, draws.astype(np.float64), tuple(seeds))


def _row(plan: Plan, name: tuple[Any, ...], cells: Group, samples: Mapping, lines: Lines) -> dict[str, Any]:
    first = next(iter(cells))
    variant, study = first.variant, plan.study
    line = lines[cells[first]]
    row = {
        "data": first.data, "start": variant.name, "entry": variant.entry, "freeze": variant.start.freeze,
        "parts": None if variant.start.trunk == "none" else variant.parts, "labels": first.labels,
        "steps": line["cost"].get("steps"), "budget": line["pretraining"],
        "seeds": len({cell.seed for cell in cells}), "pretrain_seeds": len({cell.pretrain_seed for cell in cells}),
        "images": line["result"].get("test_images"), "chosen": line.get("chosen") or None, **_cost(cells, lines),
    }  # fmt: skip
    for metric, sample in samples[name].items():
        if sample is None:
            continue
        row[metric] = mean(sample).as_list()
        reference, control = (_other(samples, name, entry, metric) for entry in (study.reference, study.control))
        if reference is not None and variant.name != study.reference:
            row[f"{metric} difference"] = difference(sample, reference).as_list()
        if reference is not None and control is not None and metric != "class_agnostic_AP":
            share = share_of_way(sample, reference, control)
            row[f"{metric} share"] = share.as_list() if isinstance(share, Estimate) else None
    row["curve"] = _curve(cells, lines)
    return row


def _other(samples: Mapping, name: tuple[Any, ...], entry: str | None, metric: str) -> Sample | None:
    """The named start at the same data, labels and steps; of several budgets the same, else its only one."""
    data, _, amount, labels, steps = name
    found = {key: of[metric] for key, of in samples.items() if (key[0], key[1], key[3], key[4]) == (data, entry, labels, steps)}
    return found.get((data, entry, amount, labels, steps), found.get((data, entry, None, labels, steps)))


def _cost(cells: Group, lines: Lines) -> dict[str, Any]:
    """Measured seconds and memory of fine-tuning and of what came before it, means over cells."""
    own = [lines[job]["cost"] for job in cells.values()]
    before = {need for job in cells.values() for need in lines[job].get("needs", [])}
    costs = [lines[need]["cost"] for need in before if "cost" in lines.get(need, {})]
    return {
        "finetune_seconds": round(plain.mean(cost["seconds"] for cost in own), 1),
        "pretrain_seconds": round(plain.mean(cost["seconds"] for cost in costs), 1) if costs else None,
        "pretrain_peak_mb": max((cost["peak_memory_mb"] for cost in costs), default=None),
    }


def _curve(cells: Group, lines: Lines) -> list[dict[str, Any]] | None:
    """AP against steps: mean, least and most over seeds; with the end."""
    values: dict[int, list[float]] = {}
    for job in cells.values():
        line = lines[job]
        if "curve" not in line:
            return None
        points = [(one["step"], one["box_AP"]) for one in line["curve"]]
        for step, value in [*points, (line["cost"]["steps"], line["result"]["box_AP"])]:
            values.setdefault(step, []).append(value or 0.0)
    return [
        {"step": step, "mean": round(plain.mean(found), 5), "least": min(found), "most": max(found)}
        for step, found in sorted(values.items())
    ]


def _trials(plan: Plan, lines: Lines) -> list[dict[str, Any]]:
    """Trials, the best first within a data set, start and rung."""
    found = []
    for job in plan.jobs(lines):
        line = lines.get(job.id)
        lost = job.kind == "pretrain" and line and "failed" in line
        if line and (job.kind == "trial" or lost):
            keys = ("data", "start", "rung", "number", "chosen", "length", "failed")
            found.append({key: line[key] for key in keys if key in line} | {"box_AP": max(0.0, score_of(line))})
    return sorted(found, key=lambda one: (one["data"], one["start"], -(one.get("rung") or 0), -one["box_AP"]))
