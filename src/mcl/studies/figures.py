"""A study's curves as PNG and SVG: AP against labels, pre-training FLOPs and fine-tuning steps; differences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcl.studies.tables import flops

Row = Mapping[str, Any]
Style = Mapping[str, Mapping[str, Any]]  # start -> colour and marker of its points
WIDTH, HEIGHT = 5.2, 3.8  # inches of a panel
MARKERS = "osD^v<>Pp*X"


@dataclass(frozen=True)
class Panel:
    """A figure of one data set.

    Attributes:
        name: of its file.
        title: in words.
        draw: ``draw(axis, rows of the data set, style, results)`` on matplotlib's axes.
    """

    name: str
    title: str
    draw: Callable[[Any, Sequence[Row], Style, Mapping[str, Any]], None]


def panels(results: Mapping[str, Any]) -> list[Panel]:
    """What the results have at least two points of."""
    rows, found = results["rows"], []
    if len({row["labels"] for row in rows if row["labels"] is not None}) > 1:
        found.append(Panel("ap-labels", "AP against labelled scenes", _labels_panel))
    if len({row["budget"]["flops"] for row in rows if row["budget"]}) > 1:
        found.append(Panel("ap-flops", "AP against the cost of pre-training", _flops_panel))
    if any(row["curve"] and len(row["curve"]) > 1 for row in rows):
        found.append(Panel("ap-steps", "AP against steps of fine-tuning", _steps_panel))
    if any(row.get("box_AP difference") for row in rows):
        found.append(Panel("difference", f"AP less that of {results['reference']}", _difference_panel))
    return found


def styles(starts: Sequence[str], colours: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """A colour and a marker for each start."""
    return {
        start: {"color": colours[i % len(colours)], "marker": MARKERS[i % len(MARKERS)]} for i, start in enumerate(starts)
    }


def draw_figures(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw all panels, a file each with one panel a data set.

    Returns:
        The PNG files; an SVG lies beside each.
    """
    import matplotlib

    matplotlib.use("Agg")
    if wanted := panels(results):
        folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"text.parse_math": False}):  # a name is no formula
        return [_draw_file(panel, folder / panel.name, results) for panel in wanted]


def _draw_file(panel: Panel, path: Path, results: Mapping[str, Any]) -> Path:
    """Written as PNG and SVG."""
    from matplotlib import pyplot

    rows = results["rows"]
    names = list(dict.fromkeys(row["data"] for row in rows))
    starts = list(dict.fromkeys(row["start"] for row in rows))
    bars = panel.draw is _difference_panel
    tall = max(HEIGHT, 0.3 * len(rows) / len(names) + 1.2) if bars else max(HEIGHT, 0.2 * len(starts) + 1)
    figure, axes = pyplot.subplots(1, len(names), figsize=(WIDTH * len(names) + 1.8, tall), squeeze=False, layout="constrained")
    style = styles(starts, pyplot.get_cmap("tab10" if len(starts) <= 10 else "tab20").colors)
    for name, axis in zip(names, axes[0], strict=True):
        panel.draw(axis, [row for row in rows if row["data"] == name], style, results)
        axis.set_title(name)
        axis.grid(alpha=0.3)
    handles = {label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=8)
    figure.savefig(path.with_suffix(".png"), dpi=130)
    with pyplot.rc_context({"svg.hashsalt": path.name}):
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    pyplot.close(figure)
    return path.with_suffix(".png")


def _labels_panel(axis, rows: Sequence[Row], style: Style, results: Mapping[str, Any]) -> None:
    latest = max((row["budget"]["flops"] for row in rows if row["budget"]), default=None)
    rows = [row for row in rows if row["labels"] is not None and _of_largest_budget(row, rows, latest)]
    _lines(axis, rows, style, lambda row: row["labels"], jitter=0.02)
    axis.set_xscale("log")
    ticks = sorted({row["labels"] for row in rows})
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.minorticks_off()
    axis.set(xlabel="labelled scenes", ylabel="box AP, 95 % interval")


def _of_largest_budget(row: Row, rows: Sequence[Row], latest: int | None) -> bool:
    own = [other["budget"]["flops"] for other in rows if other["start"] == row["start"] and other["budget"]]
    return not own or row["budget"]["flops"] == max(own)


def _flops_panel(axis, rows: Sequence[Row], style: Style, results: Mapping[str, Any]) -> None:
    fewest = min((row["labels"] for row in rows if row["labels"] is not None), default=None)
    rows = [row for row in rows if row["labels"] in (fewest, None)]
    _lines(axis, [row for row in rows if row["budget"]], style, lambda row: row["budget"]["flops"], jitter=0.01)
    for row in rows:
        if not row["budget"]:
            axis.axhline(100 * row["box_AP"][0], color=style[row["start"]]["color"], linestyle="--", linewidth=1, label=row["start"])
    axis.set_xscale("log")
    ticks = _apart({row["budget"]["flops"] for row in rows if row["budget"]})
    axis.set_xticks(ticks, [flops(tick) for tick in ticks])
    axis.minorticks_off()
    shown = "" if fewest is None else f", {fewest:,} labels"
    axis.set(xlabel="FLOPs of pre-training", ylabel=f"box AP{shown}, 95 % interval")


def _apart(values: Iterable[float], factor: float = 1.8) -> list[float]:
    """Those whose names have room beside each other on a logarithmic axis."""
    kept: list[float] = []
    for value in sorted(values):
        if not kept or value > factor * kept[-1]:
            kept.append(value)
    return kept


def _steps_panel(axis, rows: Sequence[Row], style: Style, results: Mapping[str, Any]) -> None:
    fewest = min((row["labels"] for row in rows if row["labels"] is not None), default=None)
    for row in rows:
        if not row["curve"] or row["labels"] not in (fewest, None) or not _of_largest_budget(row, rows, None):
            continue
        steps = [point["step"] for point in row["curve"]]
        axis.plot(steps, [100 * point["mean"] for point in row["curve"]], label=row["start"], markersize=4, **style[row["start"]])
        if row["seeds"] * row["pretrain_seeds"] > 1:
            low, high = ([100 * point[key] for point in row["curve"]] for key in ("least", "most"))
            axis.fill_between(steps, low, high, color=style[row["start"]]["color"], alpha=0.12, linewidth=0)
    shown = "" if fewest is None else f", {fewest:,} labels"
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set(xlabel="fine-tuning steps", ylabel=f"box AP{shown}, mean and range of seeds")


def _difference_panel(axis, rows: Sequence[Row], style: Style, results: Mapping[str, Any]) -> None:
    shown = [row for row in rows if row.get("box_AP difference")]
    for place, row in enumerate(reversed(shown)):
        value, low, high = (None if n is None else 100 * n for n in row["box_AP difference"])
        spread = None if low is None else [[max(0.0, value - low)], [max(0.0, high - value)]]
        axis.errorbar(value, place, xerr=spread, capsize=3, linestyle="none", **style[row["start"]])
    budgets = len({row["budget"]["flops"] for row in rows if row["budget"]}) > 1
    names = [_name(row, budgets) for row in reversed(shown)]
    axis.set_yticks(range(len(shown)), names, fontsize=8)
    axis.axvline(0, color=axis.xaxis.label.get_color(), linewidth=1)
    axis.set(xlabel=f"box AP minus that of {results['reference']}, 95 % interval")


def _name(row: Row, budgets: bool) -> str:
    """What tells a row from the others: its start, labels, and its pre-training where there are several lengths."""
    labels = "" if row["labels"] is None else f", {row['labels']:,} labels"
    return row["start"] + (f" after {row['budget']['steps']:,} steps" if budgets and row["budget"] else "") + labels


def _lines(axis, rows: Sequence[Row], style: Style, x: Callable[[Row], float], jitter: float) -> None:
    """A line a start with error bars, a little beside each other where they share x (for logarithmic axes)."""
    starts = list(dict.fromkeys(row["start"] for row in rows))
    for place, start in enumerate(starts):
        own = sorted((row for row in rows if row["start"] == start), key=x)
        shift = 1 + jitter * (place - (len(starts) - 1) / 2)
        values = [[None if n is None else 100 * n for n in row["box_AP"]] for row in own]
        spread = [[max(0.0, v - (v if low is None else low)) for v, low, _ in values],
                  [max(0.0, (v if high is None else high) - v) for v, _, high in values]]  # fmt: skip
        axis.errorbar(
            [x(row) * shift for row in own], [v for v, _, _ in values], yerr=spread, capsize=3, label=start,
            markersize=4, linewidth=1.2, **style[start],
        )  # fmt: skip
