"""Put the page together: one HTML file that opens without a network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata, resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mcl.report.chart import SERIES, Chart
from mcl.report.costs import anchor, counted_flops, overview, state_of
from mcl.report.runs import STUDY, Run
from mcl.report.sections import ComparedSection, RunSection, charts_together, compared_sections, run_section
from mcl.report.studied import StudySection, study_section
from mcl.report.tables import Table

FOLDER = "html"  # of template, style sheet and script, in this package


@dataclass(frozen=True)
class Page:
    """All that the template shows."""

    title: str
    runs: Sequence[Run]
    anchors: Sequence[tuple[str, str, int]]  # name, where, colour
    overview: Table
    compared: Sequence[ComparedSection]
    together: Sequence[Chart]
    studies: Sequence[StudySection]
    sections: Sequence[RunSection]


def page_of(runs: Sequence[Run], title: str, resamples: int) -> Page:
    """Read the folders and draw; see ``render`` for the file.

    Args:
        runs: in the order of the page; differences are taken to the first detector.
        resamples: of the test images, for intervals; 0: none.
    """
    colours = {run.name: place % SERIES for place, run in enumerate(runs)}
    counted = {run.name: counted_flops(run) for run in runs}
    single = [run for run in runs if run.kind != STUDY]
    return Page(
        title, runs, [(run.name, anchor(run), colours[run.name]) for run in runs], overview(runs, colours, counted),
        compared_sections(single, colours, resamples), charts_together(single, colours),
        [study_section(run, colours[run.name], state_of(run)) for run in runs if run.kind == STUDY],
        [run_section(run, colours[run.name], counted[run.name]) for run in single],
    )  # fmt: skip


def render(page: Page) -> str:
    """The page as HTML. All text is escaped; nothing but its own script may run, and nothing is fetched."""
    script = _file("page.js")
    environment = Environment(
        loader=PackageLoader("mcl.report", FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    values: dict[str, Any] = {
        "page": page, "style": Markup(_file("page.css")), "script": Markup(script), "script_hash": f"sha256-{digest}",
        "written": f"{datetime.now():%d %B %Y, %H:%M}", "version": metadata.version("mcl"),
    }  # fmt: skip
    return environment.get_template("page.html").render(values)


def _file(name: str) -> str:
    return (resources.files("mcl.report") / FOLDER / name).read_text("utf-8")
