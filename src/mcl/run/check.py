"""``mcl data check``: what is in labels of any format, all that is wrong with them, and what sizes suit them."""

from __future__ import annotations

import json
from typing import Any

from rich.table import Table

from mcl.config.data import DataCheckSettings
from mcl.data.labels.census import Census, anchor_base, count
from mcl.data.labels.coco_json import CocoScenes
from mcl.data.labels.contract import Problems
from mcl.data.labels.formats import read_labels
from mcl.data.labels.sizes import wrong_sizes
from mcl.engine.logging import console
from mcl.errors import UserError, printable
from mcl.files import write_whole

SHOWN_CLASSES, SHOWN_PROBLEMS = 30, 20
FIGURE, NUMBERS = "labels.png", "check.json"
FLAT, TALL = 1 / 3, 3.0  # height / width beyond which the usual anchors do not fit


def data_check(settings: DataCheckSettings) -> dict[str, Any]:
    """Print what is in labels; returns the numbers, ``problems`` and a ``message`` for people.

    Raises:
        UserError: there are no such labels, nothing of them can be read, or a file is in the way.
    """
    files = [settings.out / name for name in (FIGURE, NUMBERS)] if settings.out else []
    if taken := next((file for file in files if file.exists() and not settings.overwrite), None):
        raise UserError(f"--out {settings.out}: {taken.name} is there already; choose another folder, or give --overwrite true")
    problems = Problems(keep=True)
    scenes = read_labels(settings.labels, settings.images, max_missing=1.0, problems=problems)
    found = [*problems.found, *scenes.notes, *wrong_sizes(scenes.scenes)]
    census = count(scenes)
    numbers = {"labels": settings.labels, "measured_as": scenes.measured_as, **census.as_dict(), "problems": found}
    if files:
        _write(settings, scenes, numbers)
    console.print(_table(census, len(scenes.categories)))
    told = [*_told(census), *_problems(found), *(f"written: {file}" for file in files)]
    return {**numbers, "message": "\n".join(told)}


def _write(settings: DataCheckSettings, scenes: CocoScenes, numbers: dict[str, Any]) -> None:
    from mcl.detect.figure import labels_figure

    figure = labels_figure(scenes, max_pixels=settings.max_pixels)
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
        figure.save(settings.out / FIGURE)
        write_whole(settings.out / NUMBERS, json.dumps(numbers, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"--out {settings.out}: cannot be written: {error.strerror or error}") from None


def _table(census: Census, classes: int) -> Table:
    table = Table(title=f"{classes} classes", title_justify="left")
    table.add_column("", overflow="fold")
    for name in ("images", "boxes", "small", "medium", "large"):
        table.add_column(name, justify="right")
    for found in census.classes[:SHOWN_CLASSES]:
        sizes = (found.images, found.boxes, found.small, found.medium, found.large)
        table.add_row(printable(found.name), *(f"{number:,}" for number in sizes))
    rest = census.classes[SHOWN_CLASSES:]
    if rest:
        sums = [sum(getattr(one, key) for one in rest) for key in ("boxes", "small", "medium", "large")]
        table.add_row(f"{len(rest)} more", "", *(f"{number:,}" for number in sums))
    table.caption = "small, medium, large: box areas below 32 x 32, 96 x 96 and from there on, in pixels of the file"
    return table


def _told(census: Census) -> list[str]:
    """What is in the set, and what suits it, in sentences."""
    (least_w, w, most_w), (least_h, h, most_h) = census.widths, census.heights
    lines = [
        f"{census.images:,} images, {census.empty:,} without an object; {w} x {h} pixels in the middle, "
        f"{least_w} x {least_h} to {most_w} x {most_h}",
        f"{census.boxes:,} objects, {census.masks:,} with a mask; {census.crowds:,} crowds, {census.difficult:,} difficult",
    ]
    if never := [one.name for one in census.classes if not one.boxes]:
        shown = ", ".join(map(printable, never[:5])) + (f" and {len(never) - 5} more" if len(never) > 5 else "")
        lines.append(f"no box of {shown}")
    return [*lines, *_suggested(census)]


def _suggested(census: Census) -> list[str]:
    size = census.image_size
    if size is None:
        return []
    low, middle, high = (round(side * size) for side in census.sides)
    base, usual = anchor_base(census, size), min(32.0, max(4.0, size / 8))
    anchors = "the usual anchors fit" if base >= usual else f"--detector.anchor_base {base:g} (the usual: {usual:g})"
    flat, _, tall = census.ratios
    ratios = "" if flat >= FLAT and tall <= TALL else " --detector.aspect_ratios '[0.25, 0.5, 1, 2, 4]'"
    return [
        f"suggested: at least --image_size {size}; there boxes have sides of {low} to {high} px (5 to 95 %), {middle} px in the middle; "
        f"{anchors}{ratios and ','}{ratios}"
    ]


def _problems(found: list[str]) -> list[str]:
    if not found:
        return ["nothing wrong found"]
    more = len(found) - SHOWN_PROBLEMS
    return [
        f"{len(found):,} {'problem' if len(found) == 1 else 'problems'}:",
        *(f"- {line}" for line in found[:SHOWN_PROBLEMS]),
        *([f"- and {more:,} more (all in --out's {NUMBERS})"] if more > 0 else []),
    ]
