"""Fill the tables of README and docs from the JSON files beside this script: ``python benchmarks/docs.py``.

A table stands between ``<!-- table: NAME FILE ... -->`` and ``<!-- /table -->``; NAME is one of the functions below,
FILEs are in this folder. A missing file is an error: a table never shows what was not measured.
``figures FILE GROUP ...`` shows groups of what tests measured (figures.py); ``formats`` what ``mcl export`` writes.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from figures import tables as figures_tables
from runs import table as runs_table
from shown_to_work import table as transformers_table
from yardstick import table as yardstick_table

from mcl.bench.tables import markdown_of, read_tables
from mcl.interop.formats import table as formats_table
from mcl.studies.tables import to_markdown

HERE = Path(__file__).parent
MARKED = re.compile(r"(<!-- table: (\w+)((?: [\w./-]+)*) -->\n)(.*?)(<!-- /table -->)", re.S)


def speed(*files: str) -> str:
    """The README's one table: a line for each thing that somebody pays for."""
    rows = ["| what | as the authors / the plain way | `mcl` | |", "|---|---:|---:|---|"]
    for file in files:
        tables, content = read_tables(HERE / file)
        rows += {"step": _step_rows, "data": _data_rows, "loop": _loop_rows}[content["bench"]](tables, content)
    return "\n".join(rows) + "\n"


def bench(*files: str) -> str:
    """All tables of bench files, with their notes."""
    return "\n".join(markdown_of(HERE / file) for file in files)


def study(*files: str) -> str:
    """Results of studies: what was found, and what it took."""
    return "\n\n".join(to_markdown(json.loads((HERE / file).read_text("utf-8"))) for file in files) + "\n"


def runs(*files: str) -> str:
    """Fine-tuning runs, mean and spread over seeds."""
    return "\n\n".join(runs_table(HERE / file) for file in files) + "\n"


def yardstick(folder: str) -> str:
    """What scratch and the positive control reach on each testbed."""
    return yardstick_table(HERE / folder) + "\n"


def transformers(folder: str) -> str:
    """Transformers and ResNet-18 by several methods: loss, health, AP on a frozen trunk, cost."""
    return transformers_table(HERE / folder) + "\n"


def figures(file: str, *groups: str) -> str:
    """What tests measured."""
    return figures_tables(HERE / file, *groups) + "\n"


def formats() -> str:
    """The formats of ``mcl export``."""
    return formats_table()


def _step_rows(tables, content) -> list[str]:
    settings, sides = content["settings"], {row["side"]: row for row in tables[0].rows}
    name = f"{settings['model']['backbone']}, {settings['image_size']} px, {settings['batch']} images"
    slow, ours = sides["exhaustive"], sides["matched/all"]
    rows = [
        f"| training step, {name} | {slow['seconds']:.2f} s | {ours['seconds']:.2f} s | {ours['speedup']:.1f}x faster, same loss |"
    ]
    if ours.get("peak_mb"):
        rows.append(
            f"| its memory | {slow['peak_mb']:,.0f} MB | {ours['peak_mb']:,.0f} MB | {slow['peak_mb'] / ours['peak_mb']:.1f}x less |"
        )
    return rows


def _data_rows(tables, content) -> list[str]:
    size, sides = content["settings"]["image_size"], {}
    loaders = [table for table in tables if "workers" in table.columns]
    for row in [row for table in loaders for row in table.rows]:
        if row["workers"] == 1:
            sides.setdefault(row["picture"], {})[row["side"]] = row
    rows = []
    for picture, of in sides.items():
        ours, plain = of["tile-sized crops"], of["plain order"]
        rows.append(
            f"| loader, one worker, {picture} JPEGs, {size} px | {plain['images_per_second']:.0f} images/s "
            f"| {ours['images_per_second']:.0f} images/s | {ours['speedup']:.1f}x faster |"
        )
    return rows + [row for table in tables if "share" in table.columns and content["settings"]["step"] for row in _part_rows(table, content)]


def _part_rows(table, content) -> list[str]:
    settings, picture = content["settings"], table.rows[0]["picture"]
    shares = {row["side"]: row["share"] for row in table.rows if row["picture"] == picture}
    name = f"{picture} JPEGs, {settings['model']['backbone']}, {settings['image_size']} px"
    return [
        f"| loading a batch on one core, of a step's time on one, {name} | | {shares['anew']:.1%} "
        f"| {shares['kept']:.1%} with pictures kept in memory |"
    ]


def _loop_rows(tables, content) -> list[str]:
    outside = next(row for row in tables[0].rows if row["what"] == "outside the step")
    name = f"{content['settings']['model']['backbone']}, {content['settings']['image_size']} px"
    return [f"| a run's time outside the model's step, {name} | | {outside['share']:.1%} | |"]


def pages() -> list[Path]:
    """README and docs."""
    root = HERE.parent
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def filled(text: str) -> str:
    """A page with every marked table made anew."""
    return MARKED.sub(lambda m: m[1] + globals()[m[2]](*m[3].split()) + m[5], text)


def main() -> None:
    """Rewrite every marked table."""
    for page in pages():
        old = page.read_text("utf-8")
        new = filled(old)
        if new != old:
            page.write_text(new, "utf-8")
            print(f"{page.relative_to(HERE.parent)}: tables renewed", file=sys.stderr)


if __name__ == "__main__":
    main()
