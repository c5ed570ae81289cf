"""One thing that the doctor looks at: a table, a verdict, and the numbers behind them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from mcl.bench.tables import Table, to_rich
from mcl.engine.logging import console


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: for the JSON.
        verdict: one sentence when all is well.
        warnings: what is not, and what to do; empty: the verdict is ok.
        numbers: what other findings and the JSON need.
    """

    name: str
    table: Table
    verdict: str
    warnings: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)

    def show(self) -> None:
        """Print it, within the width of the terminal (80 columns where there is none)."""
        shown = to_rich(self.table)
        for column, (_, form) in zip(shown.columns, self.table.columns.values(), strict=True):
            column.justify = "left" if form == "{}" else "right"
        console.print(shown, soft_wrap=False)
        for note in self.table.notes:
            console.print(note, style="dim", markup=False, soft_wrap=False)
        lines = [("warning", text, "yellow") for text in self.warnings] or [("ok", self.verdict, "green")]
        for word, text, style in lines:
            console.print(f"{word}: {text}", style=style, markup=False, soft_wrap=False)
        console.print()

    def as_dict(self) -> dict[str, Any]:
        """For the JSON."""
        return {
            "name": self.name, "ok": not self.warnings, "verdict": self.verdict, "warnings": self.warnings,
            "table": asdict(self.table), **self.numbers,
        }  # fmt: skip
