"""A study's results as rows of text, for the terminal and for docs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from mcl.engine.logging import duration

NONE = "-"


def headings_and_rows(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row of cells for each group."""
    rows, reference = results["rows"], results["reference"]
    masks = any("mask_AP" in row for row in rows)
    wanted = [
        ("data", any(row["data"] != rows[0]["data"] for row in rows), lambda row: row["data"]),
        ("start", True, _start),
        ("labels", True, lambda row: "all" if row["labels"] is None else f"{row['labels']:,}"),
        ("steps", len({row["steps"] for row in rows}) > 1, lambda row: f"{row['steps']:,}"),
        ("seeds", True, lambda row: f"{row['pretrain_seeds']} x {row['seeds']}" if row["budget"] else str(row["seeds"])),
        ("box AP", True, lambda row: interval(row.get("box_AP"))),
        ("mask AP", masks, lambda row: interval(row.get("mask_AP"))),
        (f"box AP - {reference}", reference is not None, lambda row: interval(row.get("box_AP difference"), "+")),
        (f"mask AP - {reference}", masks and reference is not None, lambda row: interval(row.get("mask_AP difference"), "+")),
        ("share of the way", results["control"] is not None, lambda row: interval(row.get("box_AP share"), unit="%")),
        ("pre-training", any(row["budget"] for row in rows), _pretraining),
        ("its time", any(row["pretrain_seconds"] for row in rows), lambda row: _time(row["pretrain_seconds"])),
        ("fine-tuning", True, lambda row: _time(row["finetune_seconds"])),
    ]
    shown = [(heading, read) for heading, there, read in wanted if there]
    return [heading for heading, _ in shown], [[read(row) for _, read in shown] for row in rows]


def to_rich(results: Mapping[str, Any]) -> Table:
    """For the terminal."""
    headings, rows = headings_and_rows(results)
    table = Table(title=f"AP in percent, mean and 95 % interval ({results['resamples']:,} resamples)", title_justify="left")
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place > 1 else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def to_markdown(results: Mapping[str, Any]) -> str:
    """For docs."""
    parts = []
    if results["rows"]:
        parts.append(_markdown(*headings_and_rows(results)))
    if results["trials"]:
        parts.append(_markdown(*trial_rows(results["trials"])))
    return "\n\n".join(parts)


def trial_rows(trials: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of trials on the validation scenes, the best first."""
    rungs = any(one.get("rung") is not None for one in trials)
    headings = ["data", "start", *(["rung", "pre-training steps"] if rungs else []), "settings", "box AP, validation"]
    rows = []
    for one in trials:
        settings = ", ".join(f"{key} {value}" for key, value in one.get("chosen", {}).items()) or "as they stand"
        length = one.get("length")
        middle = [str(NONE if one.get("rung") is None else one["rung"] + 1), f"{length['steps']:,}" if length else NONE]
        ap = "failed" if "failed" in one else f"{100 * one['box_AP']:.1f}"
        rows.append([one["data"], one["start"], *(middle if rungs else []), settings, ap])
    return headings, rows


def trials_to_rich(trials: Sequence[Mapping[str, Any]]) -> Table:
    """For the terminal."""
    headings, rows = trial_rows(trials)
    table = Table(title="trials, best first; box AP in percent on the validation scenes", title_justify="left")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def interval(estimate: Sequence[float | None] | None, sign: str = "", unit: str = "") -> str:
    """``12.3 (11.8 .. 12.9)`` in percent; with ``sign`` ``+`` signs are shown."""
    if estimate is None:
        return NONE
    form = "{:+.1f}" if sign else "{:.0f}" if unit else "{:.1f}"
    value, low, high = (None if number is None else form.format(100 * number) for number in estimate)
    return f"{value}{unit}" + (f" ({low} .. {high})" if low is not None else "")


def _markdown(headings: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(headings)} |", f"|{'---|' * 2}{'---:|' * (len(headings) - 2)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _start(row: Mapping[str, Any]) -> str:
    frozen = {"none": "", "backbone": ", backbone frozen", "trunk": ", frozen"}[row["freeze"]]
    return row["start"] + ("" if frozen.removeprefix(", ") in row["start"] else frozen)


def _pretraining(row: Mapping[str, Any]) -> str:
    budget = row["budget"]
    return f"{budget['steps']:,} steps, {flops(budget['flops'])}" if budget else NONE


def _time(seconds: float | None) -> str:
    return NONE if seconds is None else duration(seconds)


def flops(count: float) -> str:
    """``2.06e13 -> '20.6 TFLOP'``."""
    for size, name in ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP")):
        if count >= size:
            return f"{count / size:.3g} {name}"
    return f"{count / 1e6:.3g} MFLOP"
