"""What an export hands back, what a format's module offers, and the numerical check that formats share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from mcl.errors import RunFailed, UserError
from mcl.nn.load_report import LoadReport

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Exported:
    """Outcome of an export.

    Attributes:
        report: what of the receiving model the files fill.
        differences: name of a map (c2 .. c5, p2 .. p5, ...) -> largest difference, in units of the map's largest value.
        checked_by: who computed the other side.
        unit: of the differences.
        notes: what the user should know.
    """

    report: LoadReport
    differences: dict[str, float]
    checked_by: str
    unit: str = "relative to a map's largest value"
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For the screen."""
        largest = ", ".join(f"{name} {value:.0e}" for name, value in self.differences.items())
        check = f"check: equal through {self.checked_by}; largest differences ({self.unit}): {largest}"
        return [*self.report.lines(), *self.notes, check]


class Unfit(UserError):
    """The receiver has no network like this one. The message is why, without the format's name; ``mcl export`` adds
    that and the formats that do work."""


class FormatModule(Protocol):
    """What the modules named in ``mcl.interop.formats`` offer; ``source`` is a ``TrunkSource`` or ``DetectorSource``."""

    def companions(self, out: Path) -> tuple[str, ...]:
        """Names of the files that go beside ``out``."""

    def fit(self, source: Any) -> Exported:
        """Prove that the receiver's network computes what the source's does; writes nothing.

        Raises:
            Unfit: the receiver has no such network.
        """

    def write(self, source: Any, path: Path) -> Exported:
        """``fit``, then write ``path`` and its companions, and read them back.

        Raises:
            Unfit: as ``fit``; nothing has been written then.
            RunFailed: what was written is not what was meant.
        """


def compare(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, float]:
    """Largest difference of each map of ``theirs``, in units of our map's largest value.

    Raises:
        RunFailed: a map differs by more than ``TOLERANCE``, in shape, or is not finite.
    """
    differences = {}
    for name, other in theirs.items():
        own = ours[name]
        if own.shape != other.shape:
            raise RunFailed(
                f"export check failed: {name} is {list(own.shape)} here, {list(other.shape)} there; nothing was written"
            )
        differences[name] = float((own - other).abs().max() / own.abs().max().clamp(min=1e-12))
        if not differences[name] <= TOLERANCE:  # also when it is not a number
            raise RunFailed(
                f"export check failed: {name} differs by {differences[name]:.1e} (allowed {TOLERANCE:.0e}); nothing was written"
            )
    return differences


def require_same_backbone(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], backbone: str, called: str
) -> None:
    """Refuse a backbone whose tensors have the names and shapes of another one that computes something else.

    ``resnetblur50``, for one, is a ResNet-50 with a blur before each stride: not one tensor tells.

    Args:
        ours, theirs: maps; only c2 .. c5 are looked at.
        backbone: what the trunk has.
        called: what the receiver would build.

    Raises:
        Unfit: a map differs, or ours is zero everywhere or not finite, which proves nothing.
    """
    for level in ("c2", "c3", "c4", "c5"):
        own, other = ours[level], theirs[level]
        largest = float(own.abs().max())
        if not 0 < largest < float("inf"):
            raise Unfit(f"{level} of the trunk's {backbone} is {largest:g} at most: there is nothing to compare")
        apart = float((own - other).abs().max()) / largest if own.shape == other.shape else float("inf")
        if not apart <= TOLERANCE:
            raise Unfit(
                f"it has no {backbone}: {called}, whose tensors have the same names and shapes, computes something "
                f"else ({level} differs by {apart:.1e})"
            )


def same_tensors(written: Mapping[str, Tensor], read: Mapping[str, Tensor]) -> None:
    """Raise ``RunFailed`` unless both hold the same names with the same values, bit for bit."""
    wrong = set(written) ^ set(read)
    wrong |= {
        name for name in set(written) & set(read) if not torch.equal(written[name].cpu(), read[name].cpu())
    }
    if wrong:
        raise RunFailed(
            f"export check failed: {len(wrong)} tensors came back changed ({sorted(wrong)[0]}); nothing was written"
        )
