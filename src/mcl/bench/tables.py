"""Tables of a bench: on screen, in its JSON, and as Markdown from that JSON.

``python -m mcl.bench.tables results.json`` prints the Markdown.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table as RichTable

from mcl.bench.machine import describe_machine, one_line
from mcl.config.bench import BenchSettings
from mcl.engine.logging import console
from mcl.errors import UserError

NONE = "-"
COMPUTED = ("scale", "methods")  # these numbers do not come from the machine


@dataclass(frozen=True)
class Table:
    """Rows of numbers, and how to show them.

    Attributes:
        columns: key in the rows -> (heading, format such as ``"{:.2f} s"``).
        rows: key -> value; a key that is missing or None shows as a dash.
        notes: lines under the table.
    """

    title: str
    columns: dict[str, tuple[str, str]]
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def cells(self) -> list[list[str]]:
        """The rows as they are shown."""
        return [
            [
                NONE if row.get(key) is None else form.format(row[key])
                for key, (_, form) in self.columns.items()
            ]
            for row in self.rows
        ]


def publish(
    bench: str, tables: Sequence[Table], settings: BenchSettings, results: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Print the tables, write ``--json``; returns what was written."""
    machine = describe_machine()
    for table in tables:
        console.print(to_rich(table))
        for note in table.notes:
            console.print(note, style="dim", markup=False)
    if bench not in COMPUTED:
        console.print(one_line(machine), style="dim", markup=False)
    content = {
        "bench": bench,
        "machine": machine,
        "settings": settings.model_dump(mode="json", by_alias=True, exclude={"json_file"}),
        "tables": [asdict(table) for table in tables],
        **(results or {}),
    }
    if settings.json_file is not None:
        write_json(settings.json_file, content)
    return content


def to_rich(table: Table) -> RichTable:
    """For the terminal."""
    shown = RichTable(title=table.title, title_justify="left")
    for position, (heading, _) in enumerate(table.columns.values()):
        shown.add_column(heading, justify="left" if position == 0 else "right")
    for row in table.cells():
        shown.add_row(*row)
    return shown


def to_markdown(table: Table, with_title: bool = True) -> str:
    """For the README and docs."""
    headings = [heading for heading, _ in table.columns.values()]
    lines = [
        f"| {' | '.join(headings)} |",
        f"|---|{'---:|' * (len(headings) - 1)}",
        *(f"| {' | '.join(row)} |" for row in table.cells()),
    ]
    title = [f"**{table.title}**", ""] if with_title else []
    notes = ["", *table.notes] if table.notes else []
    return "\n".join([*title, *lines, *notes])


def read_tables(path: Path | str) -> tuple[list[Table], dict[str, Any]]:
    """Tables of a JSON written by ``publish``, and all of its content.

    Raises:
        UserError: missing, or not such a file.
    """
    try:
        content = json.loads(Path(path).read_text("utf-8"))
        tables = [
            Table(t["title"], {k: tuple(v) for k, v in t["columns"].items()}, t["rows"], t["notes"])
            for t in content["tables"]
        ]
        return tables, {"bench": content["bench"], "machine": content["machine"], **content}
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: not written by mcl bench --json") from None


def markdown_of(path: Path | str) -> str:
    """All tables of a JSON as Markdown, with the machine under them."""
    tables, content = read_tables(path)
    measured_on = [] if content["bench"] in COMPUTED else [one_line(content["machine"])]
    return "\n\n".join([*map(to_markdown, tables), *measured_on]) + "\n"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write what ``--json`` asks for; raises ``UserError`` where that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
    except OSError as error:
        raise UserError(f"--json {path}: cannot be written: {error.strerror}") from None


if __name__ == "__main__":
    for file in sys.argv[1:]:
        print(markdown_of(file))
