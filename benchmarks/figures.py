"""Numbers that tests measured (tests/measured.py), as one JSON, and docs tables from it.

    python benchmarks/figures.py collect faults.json FIGURES.jsonl    # at the end of make faults
    python benchmarks/figures.py table faults.json GROUP ...          # Markdown
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from mcl.bench.machine import describe_machine, one_line


def collect(target: Path, source: Path) -> None:
    """Write count, median, least and most of every figure, and the machine; groups and rows in the tests' order."""
    lines = [json.loads(line) for line in source.read_text("utf-8").splitlines()]
    if not lines:
        raise SystemExit(f"{source}: no test recorded anything")
    lines.sort(key=lambda line: line["test"])  # stable: within a test in the order of measuring
    values: dict[tuple[str, ...], list[float]] = {}
    for line in lines:
        key = tuple(line[part] for part in ("group", "name", "column", "unit"))
        values.setdefault(key, []).append(line["value"])
    groups: dict[str, list[dict[str, Any]]] = {}
    for (group, name, column, unit), found in values.items():
        groups.setdefault(group, []).append({
            "name": name, "column": column, "unit": unit, "count": len(found),
            "median": statistics.median(found), "least": min(found), "most": max(found),
        })  # fmt: skip
    content = {"machine": describe_machine(), "groups": groups}
    target.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def tables(source: Path, *groups: str) -> str:
    """A table for each group, and the machine."""
    content = json.loads(source.read_text("utf-8"))
    if missing := set(groups) - set(content["groups"]):
        raise SystemExit(f"{source}: has nothing of {', '.join(missing)}, but of {', '.join(content['groups'])}")
    load = content["machine"]["load_average"]
    measured_on = one_line(content["machine"]) + (f"; load {load[1]} at the end" if load else "")
    return "\n\n".join([*(table(group, content["groups"][group]) for group in groups), measured_on])


def table(group: str, figures: list[dict[str, Any]]) -> str:
    """Names down, columns across; several measurements as ``median (least .. most; how many)``."""
    columns = list(dict.fromkeys(figure["column"] for figure in figures))
    cells: dict[str, dict[str, str]] = {}
    for figure in figures:
        cells.setdefault(figure["name"], {})[figure["column"]] = cell(figure)
    rows = [f"| {group} | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    rows += [f"| {name} | {' | '.join(of.get(column, '-') for column in columns)} |" for name, of in cells.items()]
    return "\n".join(rows)


def cell(figure: dict[str, Any]) -> str:
    """One cell of a table."""
    unit = f" {figure['unit']}" if figure["unit"] else ""
    median = f"{rounded(figure['median'])}{unit}"
    if figure["count"] == 1:
        return median
    return f"{median} ({rounded(figure['least'])} .. {rounded(figure['most'])}{unit}; {figure['count']} times)"


def rounded(value: float) -> str:
    """Two digits below 1, one decimal below 100, none above and for whole numbers."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"


if __name__ == "__main__":
    command, file, *rest = sys.argv[1:]
    if command == "collect":
        collect(Path(file), Path(rest[0]))
    else:
        print(tables(Path(file), *rest))
