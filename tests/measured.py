"""Numbers that tests measure, kept for ``benchmarks/faults.json`` (``make faults``)."""

from __future__ import annotations

import json
import os

VARIABLE = "MCL_FIGURES"


def record(test: str, group: str, name: str, value: float, unit: str = "", column: str = "measured") -> None:
    """Add a line to the file that ``MCL_FIGURES`` names; without that variable, do nothing.

    Args:
        test: where it was measured.
        group: the table of the docs that it belongs to.
        name, column: row and column there; the same again is another measurement of the same thing.
        unit: of ``value``: ``s``, ``MB`` ..., empty for a count.
    """
    if path := os.environ.get(VARIABLE):
        line = {"test": test, "group": group, "name": name, "column": column, "value": value, "unit": unit}
        # One write to the end of the file: the lines of processes side by side do not mix.
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(file, (json.dumps(line) + "\n").encode())
        finally:
            os.close(file)
