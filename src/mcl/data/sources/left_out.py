"""What lies below a folder of images and is not taken from it: told in a line each, never passed over in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from mcl.errors import printable

SHOWN = 3


@dataclass
class LeftOut:
    """Filled while a folder is listed; names count from that folder.

    Attributes:
        runs: folders of runs, whose pictures are no data.
        unreadable: (folder, why) of folders that cannot be listed.
        formats: suffix -> files of it, of picture formats that this Pillow does not read.
    """

    runs: list[str] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)

    def lines(self, root: str) -> list[str]:
        """What a user should know, or nothing."""
        lines = []
        if self.runs:
            lines.append(f"{_folders(self.runs)} left out, being no data but a run's: {_named(self.runs)}")
        if self.unreadable:
            why = _named(f"{name} ({reason})" for name, reason in self.unreadable)
            lines.append(f"{_folders(self.unreadable)} left out that cannot be read: {why}")
        if self.formats:
            files = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(self.formats.items()))
            newer = " (.avif: from Pillow 11.3 on)" if ".avif" in self.formats else ""
            lines.append(f"files left out that this Pillow cannot read: {files}{newer}")
        return [f"{printable(root)}: {line}" for line in lines]


def _folders(found: list) -> str:
    return f"{len(found):,} folder{'s' * (len(found) > 1)} below it"


def _named(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(printable(name) for name in names[:SHOWN]) + more
