"""A run's section of the page, and that of detectors measured on the same scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mcl.errors import printable
from mcl.report.aps import ap_table, classes_table, difference_chart, numbers_table
from mcl.report.chart import Chart, Line, line_chart
from mcl.report.costs import anchor, state_of, tiles
from mcl.report.differs import changed_settings, inputs
from mcl.report.found import Confusions, confusions, errors_table, found_by, mean_curve, precision_charts
from mcl.report.logged import ap_chart, overlay, training_charts
from mcl.report.pictures import Picture, pictures_of
from mcl.report.runs import FINETUNE, PRETRAIN, Run
from mcl.report.tables import Cell, Table
from mcl.report.versus import KINDS, Compared, compare_runs
from mcl.run_files import CONFIG

TOGETHER = {PRETRAIN: ("loss", "spread", "rank"), FINETUNE: ("loss",)}  # numbers of several runs in one chart


@dataclass(frozen=True)
class RunSection:
    """What the page shows of one run; ``settings`` are those that its recipe has otherwise."""

    run: Run
    anchor: str
    colour: int
    state: str
    tiles: Sequence[tuple[str, str]]
    inputs: Mapping[str, str]
    settings: Table
    config: str
    notes: Sequence[str]
    warnings: Table | None
    charts: Sequence[Chart]
    more_charts: Sequence[Chart]
    pictures: Sequence[Picture]
    errors: Table | None
    confusions: Confusions | None


@dataclass(frozen=True)
class ComparedSection:
    """Detectors on one annotation file."""

    val: str
    missing: str
    resamples: int
    ap: Table
    tables: Sequence[Table]
    classes: Sequence[Table]
    charts: Sequence[Chart]


def run_section(run: Run, number: int, compute: float | None) -> RunSection:
    """Everything that the folder tells."""
    first, rest = training_charts(run)
    pictures, notes = pictures_of(run.path)
    found, missing = found_by(run)
    charts = [*first, *(precision_charts(found) if found else [])]
    given = run.settings.get("recipe")
    changed = [[Cell(name), Cell(before), Cell(now)] for name, before, now in changed_settings(run)]
    settings = Table(["setting", f"recipe {given}" if given else "default", "this run"], changed, words=3)
    warnings = [
        [Cell(printable(str(one.get("text", "")))), Cell(f"{one.get('step', 0):,}", one.get("step", 0))]
        for one in run.summary.get("warnings", _warnings_on_the_way(run))
    ]
    return RunSection(
        run, anchor(run), number, state_of(run), tiles(run, compute), inputs(run), settings, _config(run),
        [*(printable(str(note)) for note in run.summary.get("notes", ())), *notes, *([missing] if missing else [])],
        Table(["warning", "from step"], warnings) if warnings else None, charts, rest, pictures,
        errors_table(found) if found else None, confusions(found) if found else None,
    )  # fmt: skip


def compared_sections(runs: Sequence[Run], colours: Mapping[str, int], resamples: int) -> list[ComparedSection]:
    """One for each annotation file that detectors were measured on."""
    return [_compared(one, colours, resamples) for one in compare_runs(runs, resamples)]


def charts_together(runs: Sequence[Run], colours: Mapping[str, int]) -> list[Chart]:
    """Numbers of several pre-trainings, or several fine-tunings, over each other."""
    made: list[Chart | None] = []
    for kind, numbers in TOGETHER.items():
        own = [run for run in runs if run.kind == kind]
        if kind == FINETUNE and sum(bool(run.curve) for run in own) > 1:
            made.append(ap_chart(own, colours))
        made += [overlay(own, colours, number) for number in numbers]
    return [chart for chart in made if chart]


def _compared(one: Compared, colours: Mapping[str, int], resamples: int) -> ComparedSection:
    kinds = [kind for kind in KINDS if any(kind in run.numbers for run in one.runs)]
    tables = [numbers_table(one, kind, colours) for kind in kinds]
    classes = [classes_table(one, kind, colours) for kind in kinds]
    charts = [difference_chart(one, colours), _precision_together(one, colours)]
    return ComparedSection(
        printable(one.val), printable(one.missing), resamples, ap_table(one, colours), [t for t in tables if t],
        [t for t in classes if t], [chart for chart in charts if chart],
    )  # fmt: skip


def _precision_together(one: Compared, colours: Mapping[str, int]) -> Chart | None:
    lines = []
    for run in one.runs if len(one.runs) > 1 else ():
        found, _ = found_by(run)
        if found:
            recall, precision = ([100 * float(v) for v in values] for values in (found.curves["bbox"]["recall"], mean_curve(found)))
            lines.append(Line(run.name, recall, precision, colours[run.name]))
    if len(lines) < 2:
        return None
    return line_chart(
        "Precision over recall, boxes", lines, "Mean over classes and IoU 0.5 to 0.95: the area below is the AP.",
        "recall, percent", "precision, percent", xlim=(0, 100), ylim=(0, 102),
    )  # fmt: skip


def _warnings_on_the_way(run: Run) -> list[dict]:
    return [
        {"step": row["step"], "text": text}
        for row in run.metrics
        for text in (row.get("warnings") or {}).values()
    ]


def _config(run: Run) -> str:
    return (run.path / CONFIG).read_text("utf-8", "replace")
