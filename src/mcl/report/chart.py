"""Charts as SVG inside the page: matplotlib draws them, the page's style sheet colours them (light and dark).

matplotlib knows fixed colours only. So each colour of the page has a stand-in that nothing else uses, and in the SVG
it is replaced by the style sheet's variable.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

SERIES = 10  # colours of the style sheet: --series-0 ..; more lines than that take turns in their dashes
STAND_INS = {f"#0a0b{i:02x}": f"var(--series-{i})" for i in range(SERIES)}
INK, MUTED, GRID = "#0a0c01", "#0a0c02", "#0a0c03"
STAND_INS |= {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)"}
DASHES = ("-", "--", ":", "-.")
STYLE = {
    "svg.fonttype": "none", "text.parse_math": False, "font.size": 9.5, "font.family": "sans-serif", "figure.dpi": 72,
    "text.color": INK, "axes.labelcolor": MUTED, "axes.edgecolor": GRID, "xtick.color": MUTED, "ytick.color": MUTED,
    "axes.spines.top": False, "axes.spines.right": False, "grid.color": GRID, "grid.linewidth": 0.7, "axes.grid": True,
    "axes.axisbelow": True, "lines.linewidth": 1.6, "lines.solid_capstyle": "round", "xtick.major.size": 0,
    "ytick.major.size": 0, "axes.labelsize": 9.5, "xtick.labelsize": 9, "ytick.labelsize": 9,
}  # fmt: skip
WIDTH, HEIGHT = 4.5, 2.9  # inches; a chart is as wide as a telephone
SMOOTHED = 60  # points from which on a noisy line is drawn smooth, over its raw self

_numbers = count()


@dataclass(frozen=True)
class Line:
    """Points of one name.

    Attributes:
        colour: number of the style sheet's colour.
        dash: of ``DASHES``.
        marked: with a dot at each point.
        noisy: where it has many points, its running mean is drawn over it.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    colour: int = 0
    dash: int = 0
    marked: bool = False
    noisy: bool = False


@dataclass(frozen=True)
class Chart:
    """What the page shows: ``svg`` with a heading, a sentence below, and a legend (name, colour number, dash number)."""

    title: str
    svg: Markup
    about: str = ""
    legend: tuple[tuple[str, int, int], ...] = ()


def colour(number: int) -> str:
    """What to tell matplotlib for the style sheet's colour of that number."""
    return f"#0a0b{number % SERIES:02x}"


@contextmanager
def drawing() -> Iterator[None]:
    """matplotlib with the page's style."""
    with matplotlib.rc_context(STYLE):
        yield


def line_chart(
    title: str, lines: Iterable[Line], about: str = "", x_label: str = "step", y_label: str = "", **axis: Any
) -> Chart | None:
    """Lines over a common axis; none where there is nothing to draw.

    Args:
        axis: for matplotlib's ``Axes.set``, and ``level``: (value, name) of a dashed horizontal line.
    """
    lines = [line for line in lines if any(y is not None for y in line.y)]
    if not lines:
        return None
    level = axis.pop("level", None)
    with drawing():
        figure, axes = new_figure(words=False)
        for line in lines:
            _draw(axes, line)
        if level:
            axes.axhline(level[0], color=MUTED, linestyle=(0, (4, 3)), linewidth=1)
            axes.annotate(level[1], (1, level[0]), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=MUTED, fontsize=8)
        axes.set(xlabel=x_label, ylabel=y_label, **axis)
        axes.yaxis.labelpad = 2
        axes.xaxis.set_major_formatter(_thousands())
        svg = to_svg(figure)
    legend = tuple((line.name, line.colour, line.dash) for line in lines if line.name)
    return Chart(title, svg, about, legend)


def new_figure(width: float = WIDTH, height: float = HEIGHT, words: bool = True) -> tuple[Figure, Any]:
    """A figure of one panel, without pyplot's global list of figures.

    Args:
        words: names stand beside it, and are measured for their room (which takes as long as the drawing); numbers
            have theirs.
    """
    figure = Figure(figsize=(width, height), layout="constrained" if words else None)
    axes = figure.subplots()
    if not words:
        figure.subplots_adjust(left=0.13, right=0.985, top=0.97, bottom=0.16)
    return figure, axes


def to_svg(figure: Figure) -> Markup:
    """The figure for inside a page: colours by variables, no fixed size, names of its own for what it refers to."""
    drawn = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": f"chart-{next(_numbers)}"}):
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    text = drawn.getvalue()
    text = text[text.index("<svg") :]
    # Its own style sheet would be the whole page's, and the page has its own letters.
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|font-family: [^;]*; ", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1), count=1)
    # matplotlib numbers groups alike in every figure; only what is referred to needs its name.
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", text)
    for stand_in, variable in STAND_INS.items():
        text = text.replace(stand_in, variable)
    return Markup(text.replace("<svg ", '<svg role="img" aria-hidden="true" ', 1))


def smooth(values: Sequence[float | None], window: int) -> list[float | None]:
    """Means over ``window`` points around each, fewer at the ends; what is not a number is passed over."""
    means: list[float | None] = []
    for place in range(len(values)):
        near = [v for v in values[max(0, place - window // 2) : place + window // 2 + 1] if v is not None and v == v]
        means.append(sum(near) / len(near) if near else None)
    return means


def _draw(axes: Any, line: Line) -> None:
    y = [float("nan") if value is None else value for value in line.y]
    style = {"color": colour(line.colour), "linestyle": DASHES[line.dash % len(DASHES)]}
    if len(y) >= SMOOTHED and line.noisy:
        axes.plot(line.x, y, color=style["color"], linewidth=0.8, alpha=0.25)
        y = [float("nan") if value is None else value for value in smooth(line.y, len(y) // 20)]
    marks = {"marker": "o", "markersize": 3.5} if line.marked or len(y) < 2 else {}
    axes.plot(line.x, y, **style, **marks)


def _thousands() -> Any:
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: f"{value:,.0f}" if value == int(value) else f"{value:g}")
