"""A study's results as rows of text, for the terminal and for docs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.table import Table

from mcl.engine.logging import duration

NONE = "-"


Column = tuple[str, bool, Callable[[Mapping[str, Any]], str]]  # heading, whether it is shown, a row's cell


def headings_and_rows(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row of cells for each group: what was found."""
    rows, reference = results["rows"], results["reference"]
    masks, compared = any("mask_AP" in row for row in rows), reference is not None
    return _shown(rows, [
        *_names(rows),
        ("seeds", True, lambda row: f"{row['pretrain_seeds']} x {row['seeds']}" if row["budget"] else str(row["seeds"])),
        ("box AP", True, lambda row: interval(row.get("box_AP"))),
        (f"less {reference}", compared, lambda row: interval(row.get("box_AP difference"), "+")),
        ("of the way", results["control"] is not None, lambda row: interval(row.get("box_AP share"), unit="%")),
        ("mask AP", masks, lambda row: interval(row.get("mask_AP"))),
        (f"less {reference} ", masks and compared, lambda row: interval(row.get("mask_AP difference"), "+")),
    ])  # fmt: skip


def costs(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row of cells for each group: what it took, measured."""
    return _shown(results["rows"], [
        *_names(results["rows"]),
        ("pre-training", True, lambda row: flops(row["budget"]["flops"]) if row["budget"] else NONE),
        ("images", True, lambda row: f"{row['budget']['images']:,}" if row["budget"] else NONE),
        ("its time", True, lambda row: _time(row["pretrain_seconds"])),
        ("its memory", True, lambda row: f"{row['pretrain_peak_mb']:,.0f} MB" if row["pretrain_peak_mb"] else NONE),
        ("fine-tuning", True, lambda row: f"{row['steps']:,} steps"),
        ("its time", True, lambda row: _time(row["finetune_seconds"])),
    ])  # fmt: skip


def _names(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """What tells rows apart."""
    budgets = len({row["budget"]["flops"] // 10**6 for row in rows if row["budget"]}) > 1
    return [
        ("data", len({row["data"] for row in rows}) > 1, lambda row: row["data"]),
        ("start", True, _start),
        ("its steps", budgets, lambda row: f"{row['budget']['steps']:,}" if row["budget"] else NONE),
        ("labels", True, lambda row: "all" if row["labels"] is None else f"{row['labels']:,}"),
        ("steps", len({row["steps"] for row in rows}) > 1, lambda row: f"{row['steps']:,}"),
    ]


def _shown(rows: Sequence[Mapping[str, Any]], columns: list[Column]) -> tuple[list[str], list[list[str]]]:
    shown = [(heading, read) for heading, there, read in columns if there]
    return [heading for heading, _ in shown], [[read(row) for _, read in shown] for row in rows]


def to_rich(headings: list[str], rows: list[list[str]], title: str) -> Table:
    """For the terminal."""
    table = Table(title=title, title_justify="left")
    for heading in headings:
        words = heading in ("data", "start", "settings")
        table.add_column(heading, justify="left" if words else "right", overflow="fold", no_wrap=not words)
    for row in rows:
        table.add_row(*row)
    return table


def to_markdown(results: Mapping[str, Any]) -> str:
    """For docs."""
    parts = []
    if results["rows"]:
        parts += [_markdown(*headings_and_rows(results)), _markdown(*costs(results))]
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


def interval(estimate: Sequence[float | None] | None, sign: str = "", unit: str = "") -> str:
    """``12.3 (11.8 .. 12.9)`` in percent; with ``sign`` ``+`` signs are shown."""
    if estimate is None:
        return NONE
    form = "{:+.1f}" if sign else "{:.0f}" if unit else "{:.1f}"
    value, low, high = (None if number is None else form.format(100 * number) for number in estimate)
    return f"{value}{unit}" + (f" ({low} .. {high})" if low is not None else "")


def _markdown(headings: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(headings)} |", f"|{'---|' * 2}{'---:|' * (len(headings) - 2)}"]
    return "\n".join([*lines, *(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)])


def _start(row: Mapping[str, Any]) -> str:
    frozen = {"none": "", "backbone": ", backbone frozen", "trunk": ", frozen"}[row["freeze"]]
    return row["start"] + ("" if frozen.removeprefix(", ") in row["start"] else frozen)


def _time(seconds: float | None) -> str:
    return NONE if seconds is None else duration(seconds)


def flops(count: float) -> str:
    """``2.06e13 -> '20.6 TFLOP'``."""
    for size, name in ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP")):
        if count >= size:
            return f"{count / size:.3g} {name}"
    return f"{count / 1e6:.3g} MFLOP"
