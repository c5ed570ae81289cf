"""A study's folder on the page: its tables and its figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mcl.errors import printable
from mcl.report.chart import HEIGHT, SERIES, Chart, colour, drawing, new_figure, to_svg
from mcl.report.costs import anchor
from mcl.report.runs import Run
from mcl.report.tables import NONE, Cell, Table, order_of, plain_cells, share_cell, with_minus
from mcl.studies.figures import Panel, panels, styles
from mcl.studies.tables import costs, headings_and_rows, trial_rows


@dataclass(frozen=True)
class StudySection:
    """What the page shows of a study."""

    run: Run
    anchor: str
    colour: int
    state: str
    about: str
    tables: tuple[Table, ...]
    charts: tuple[Chart, ...]


def study_section(run: Run, number: int, state: str) -> StudySection:
    """Tables and figures of what is done so far."""
    results = run.results
    if not results:
        return StudySection(run, anchor(run), number, state, "", (_trainings(run),), ())
    tables = []
    if results["rows"]:
        tables = [_found(results), _cost(results)]
    if results["trials"]:
        headings, rows = trial_rows(results["trials"])
        tables.append(Table(headings, plain_cells(rows), "Trials, the best first", "On the validation scenes.", len(headings) - 1))
    charts = [chart for panel in panels(results) for chart in _charts(panel, results)] if results["rows"] else []
    return StudySection(run, anchor(run), number, state, results.get("about") or "", tuple(tables), tuple(charts))


def _found(results: Mapping[str, Any]) -> Table:
    headings, rows = headings_and_rows(results)
    headings = [heading.strip() for heading in headings]
    about = f"Percent: mean and 95 % interval, from {results['resamples']:,} resamples of seeds and test images."
    return Table(headings, [[_estimate(text) for text in row] for row in rows], "What was found", about, _words(headings))


def _cost(results: Mapping[str, Any]) -> Table:
    headings, rows = costs(results)
    return Table(headings, plain_cells(rows), "What it cost", "Time and memory measured, FLOPs counted.", _words(headings))


def _words(headings: list[str]) -> int:
    return 1 + headings.index("start")


def _estimate(text: str) -> Cell:
    """``12.3 (11.8 .. 12.9)`` with the interval below the number."""
    text = with_minus(text)
    value, bracket, rest = text.partition(" (")
    if not (bracket and ".." in rest and order_of(value) is not None):
        return Cell(NONE if text == "-" else text, order_of(text))
    return Cell(value, order_of(value), rest.removesuffix(")"))


def _charts(panel: Panel, results: Mapping[str, Any]) -> list[Chart]:
    """One for each data set."""
    rows = results["rows"]
    names = list(dict.fromkeys(row["data"] for row in rows))
    starts = list(dict.fromkeys(row["start"] for row in rows))
    style = styles(starts, [colour(i) for i in range(SERIES)])
    charts = []
    for name in names:
        own = [row for row in rows if row["data"] == name]
        bars = panel.name == "difference"
        with drawing():
            figure, axes = new_figure(height=max(HEIGHT, 0.26 * len(own) + 1) if bars else HEIGHT, words=bars)
            panel.draw(axes, own, style, results)
            about = axes.get_ylabel()  # a sentence: there is more room below than beside
            axes.set_ylabel("")
            if bars:
                axes.grid(visible=False, axis="y")
            svg = to_svg(figure)
        title = panel.title if len(names) == 1 else f"{panel.title}: {printable(name)}"
        there = [start for start in starts if any(row["start"] == start for row in own)]
        legend = () if bars else tuple((printable(start), starts.index(start) % SERIES, 0) for start in there)
        charts.append(Chart(title, svg, f"{about[:1].upper()}{about[1:]}." if about else "", legend))
    return charts


def _trainings(run: Run) -> Table:
    """What is done of a study that has no results yet."""
    rows = []
    for line in run.trainings:
        told = "failed" if "failed" in line else "done"
        ap = (line.get("result") or {}).get("box_AP")
        cells = [Cell(printable(str(line.get(key) or NONE))) for key in ("kind", "data", "start")]
        rows.append([*cells, Cell(told), share_cell(ap), Cell(str(line.get("seed", NONE)), line.get("seed"))])
    return Table(["training", "data", "start", "state", "box AP", "seed"], rows, "Done so far", words=4)
