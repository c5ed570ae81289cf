"""AP of the page's detectors: tables, and their differences as a chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mcl.errors import printable
from mcl.report.chart import Chart, colour, drawing, new_figure, to_svg
from mcl.report.costs import anchor
from mcl.report.runs import Run
from mcl.report.tables import Cell, Table, share_cell
from mcl.report.versus import KINDS, Compared
from mcl.studies.statistics import Estimate

NUMBERS = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip


def ap_table(compared: Compared, colours: Mapping[str, int]) -> Table:
    """AP of each run with its interval, and less the reference's."""
    first, runs = compared.runs[0], compared.runs
    kinds = [kind for kind in KINDS if any(kind in run.numbers for run in runs)]
    several = len(runs) > 1
    headings = ["run"]
    for kind in kinds:
        headings += [KINDS[kind], *([f"{KINDS[kind]} less {first.name}"] if several else [])]
    rows = []
    for run in runs:
        row = [_named(run, colours)]
        for kind in kinds:
            value = (run.numbers.get(kind) or {}).get("AP")
            row.append(_estimated(value, compared.aps.get((run.name, kind))))
            if several:
                row.append(_difference(run, first, kind, compared))
        rows.append(row)
    return Table(headings, rows)


def numbers_table(compared: Compared, kind: str, colours: Mapping[str, int]) -> Table | None:
    """COCO's numbers of boxes or masks, a row each run; the best of each column marked."""
    runs = [run for run in compared.runs if kind in run.numbers]
    if not runs:
        return None
    names = [name for name in NUMBERS if any(run.numbers[kind].get(name) is not None for run in runs)]
    columns = [_marked([run.numbers[kind].get(name) for run in runs]) for name in names]
    headings = ["run", *(name.replace("_", " ") for name in names)]
    title = {"bbox": "Boxes", "segm": "Masks"}[kind]
    return Table(headings, [[_named(run, colours), *(c[i] for c in columns)] for i, run in enumerate(runs)], title)


def classes_table(compared: Compared, kind: str, colours: Mapping[str, int]) -> Table | None:
    """AP of each class, a column each run; of several, how far the last is from the first."""
    runs = [run for run in compared.runs if (run.numbers.get(kind) or {}).get("per_class")]
    if not runs:
        return None
    values = [run.numbers[kind]["per_class"] for run in runs]
    names = sorted({name for one in values for name in one}, key=lambda name: -(values[0].get(name) or 0))
    rows = []
    for name in names:
        own = [one.get(name) for one in values]
        row = [Cell(printable(name)), *_marked(own)]
        if len(runs) == 2 and None not in own:
            row.append(share_cell(own[1] - own[0], sign=True))
        rows.append(row)
    headings = ["class", *(run.name for run in runs), *(["difference"] if len(runs) == 2 else [])]
    width = len(headings)
    rows = [[*row, *[Cell("–")] * (width - len(row))] for row in rows]
    return Table(headings, rows, f"{KINDS[kind].capitalize().replace('ap', 'AP')} of each class")


def difference_chart(compared: Compared, colours: Mapping[str, int]) -> Chart | None:
    """A dot and a bar for each run and kind of AP, beside the reference at 0."""
    shown = [(run, kind) for run in compared.runs[1:] for kind in KINDS if (run.name, kind) in compared.differences]
    if not shown:
        return None
    with drawing():
        figure, axes = new_figure(height=1.1 + 0.34 * len(shown))
        for place, (run, kind) in enumerate(reversed(shown)):
            told = compared.differences[run.name, kind]
            _bar(axes, told, place, colours[run.name], hollow=kind == "segm")
        axes.axvline(0, color=axes.xaxis.label.get_color(), linewidth=1)
        axes.set_yticks(range(len(shown)), [KINDS[kind].removesuffix(" AP") for _, kind in reversed(shown)])
        axes.grid(visible=False, axis="y")
        axes.set(xlabel="AP, percent: difference and its 95 % interval", ylim=(-0.6, len(shown) - 0.4))
        svg = to_svg(figure)
    legend = tuple(dict.fromkeys((run.name, colours[run.name], 0) for run, _ in shown))
    return Chart(f"Difference to {compared.runs[0].name}", svg, "Right of the line: better. A bar that crosses it: not told apart by these test images.", legend)


def _bar(axes: Any, told: Estimate, place: int, number: int, hollow: bool) -> None:
    value, low, high = (None if n is None else 100 * n for n in (told.value, told.low, told.high))
    spread = None if low is None else [[max(0.0, value - low)], [max(0.0, high - value)]]
    own = colour(number)
    axes.errorbar(value, place, xerr=spread, fmt="o", color=own, markerfacecolor="none" if hollow else own, capsize=3, markersize=5.5)


def _named(run: Run, colours: Mapping[str, int]) -> Cell:
    return Cell(run.name, anchor=anchor(run), colour=colours[run.name])


def _estimated(value: float | None, told: Estimate | None) -> Cell:
    return share_cell(value, told.low, told.high) if told else share_cell(value)


def _difference(run: Run, first: Run, kind: str, compared: Compared) -> Cell:
    if run is first:
        return Cell("reference")
    told = compared.differences.get((run.name, kind))
    if told:
        return share_cell(told.value, told.low, told.high, sign=True)
    own, other = ((one.numbers.get(kind) or {}).get("AP") for one in (run, first))
    return share_cell(None if own is None or other is None else own - other, sign=True)


def _marked(values: Sequence[float | None]) -> list[Cell]:
    known = [value for value in values if value is not None]
    best = max(known) if len(known) > 1 and len(set(known)) > 1 else None
    return [share_cell(value, best=best is not None and value == best) for value in values]
