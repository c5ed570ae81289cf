"""What a study has done: one JSON line for each training that ended, appended whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mcl.errors import RunFailed, UserError


class Book:
    """``cells.jsonl``: id -> line.

    A line is written with one call and synced; what a kill left of one is cut off when the book is opened.
    """

    def __init__(self, path: Path, write: bool = True) -> None:
        """Read what is there.

        Args:
            write: False for a look (``--dry_run``), which mends nothing.

        Raises:
            UserError: the file is damaged in its middle, or cannot be read.
        """
        self.path, self.lines = path, {}
        content = path.read_bytes() if path.is_file() else b""
        whole, _, torn = content.rpartition(b"\n")
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                entry = json.loads(line)
                self.lines[entry["id"]] = entry
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{path}: line {number} is damaged; remove it, and its cell is run again") from None
        if torn and write:
            with open(path, "r+b") as file:
                file.truncate(len(content) - len(torn))

    def add(self, line: dict[str, Any]) -> None:
        """Append a line with an ``id``; it is on disk when this returns."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            data = json.dumps(line, ensure_ascii=False).encode() + b"\n"
            if os.write(descriptor, data) < len(data):
                raise RunFailed(f"{self.path}: disk full")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self.lines[line["id"]] = line

    def __contains__(self, name: str) -> bool:
        return name in self.lines
