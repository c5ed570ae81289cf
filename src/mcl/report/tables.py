"""Tables of the page: text for the eye, a number for sorting."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

NONE = "–"
UNITS = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18, "days": 86400, "h": 3600, "m": 60, "s": 1}
_TIME = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_NUMBER = re.compile(r"([+−-]?\d[\d,]*(?:\.\d+)?)\s*(days|[kMGTPE](?=FLOP|B|$))?")


@dataclass(frozen=True)
class Cell:
    """A cell.

    Attributes:
        text: as shown.
        order: what it is sorted by; none: by its text, after all numbers.
        note: small, below it: an interval.
        anchor: section of the page that it leads to.
        colour: number of the dot before it.
        best: whether it is the best of its column.
    """

    text: str
    order: float | None = None
    note: str = ""
    anchor: str = ""
    colour: int | None = None
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Rows below headings; the first ``words`` columns are text, the others numbers."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    about: str = ""
    words: int = 1


def plain_cells(rows: Sequence[Sequence[str]]) -> list[list[Cell]]:
    """Text as cells, with the numbers that it begins with."""
    return [[Cell(NONE if text == "-" else with_minus(text), order_of(text)) for text in row] for row in rows]


def order_of(text: str) -> float | None:
    """The number that a text begins with: ``"1m35s" -> 95``, ``"20.6 TFLOP" -> 2.06e13``, ``"12.3 (11 .. 13)" -> 12.3``."""
    time = _TIME.fullmatch(text)
    if time and any(time.groups()):
        return float(sum(int(part or 0) * size for part, size in zip(time.groups(), (3600, 60, 1), strict=True)))
    number = _NUMBER.match(text)
    if not number:
        return None
    return float(number[1].replace(",", "").replace("−", "-")) * UNITS.get(number[2] or "", 1)


def percent(value: float | None, sign: bool = False) -> str:
    """``0.4251 -> '42.5'``, with ``sign`` ``'+42.5'``."""
    return NONE if value is None else with_minus(f"{100 * value:{'+' if sign else ''}.1f}")


def with_minus(text: str) -> str:
    """The minus of print before numbers, not a hyphen."""
    return re.sub(r"(?<!\w)-(?=\d)", "−", text)


def share_cell(value: float | None, low: float | None = None, high: float | None = None, sign: bool = False, best: bool = False) -> Cell:
    """A number from 0 to 1 in percent, with its interval below."""
    note = "" if low is None else f"{percent(low, sign)} .. {percent(high, sign)}"
    return Cell(percent(value, sign), value, note, best=best)
