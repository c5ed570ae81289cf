"""What happened to every tensor when weights were loaded: nothing goes missing in silence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from mcl.errors import UserError, printable


@dataclass(frozen=True)
class LoadReport:
    """Outcome of matching a file's tensors against a module's.

    Attributes:
        matched: names in both, of the same shape: loaded.
        missing: names the module wanted and the file lacks.
        unexpected: names the file has and the module does not, although their part was asked for.
        mismatched: names in both of different shape, with (file's shape, module's shape).
        left_out: names of the file whose part was not asked for.
        fresh: names of the module that nothing was wanted for: they start from random values.
        covered: share of the module's parameters and buffers (in numbers) that were loaded.
        pieces: of a trunk (``mcl.nn.parts.PIECES``) that were loaded.
        notes: what else the user should know.
    """

    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    left_out: list[str]
    fresh: list[str]
    covered: float
    pieces: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def lines(self, most: int = 4) -> list[str]:
        """For the screen: the notes, then one line a kind, with the first ``most`` names; empty kinds are left away."""
        shapes = [
            f"{name} {list(theirs)} -> {list(ours)}" for name, (theirs, ours) in self.mismatched.items()
        ]
        kinds = {
            "matched": self.matched,
            "missing in the file": self.missing,
            "unexpected in the file": self.unexpected,
            "of another shape": shapes,
            "left out": self.left_out,
            "fresh": self.fresh,
        }
        counted = [
            f"{len(names):5d} tensors {kind}: {_some(names, most)}" for kind, names in kinds.items() if names
        ]
        return [*self.notes, *counted, f"loaded {self.covered:.1%} of the numbers in the network"]

    def require_complete(self, source: str, allow_partial: bool) -> None:
        """Refuse a load that did nothing or only part of what was asked.

        Raises:
            UserError: nothing matched; or tensors were missing, unexpected or of another shape and
                ``allow_partial`` is off.
        """
        if not self.matched:
            has = _some(self.unexpected + self.left_out, 2) or "none"
            why = self._first_shapes() or f"it has {has}, wanted {_some(self.missing, 2)}"
            raise UserError(f"{source}: no tensor fits: {why}")
        problems = self.problems()
        if problems and not allow_partial:
            raise UserError(f"{source}: does not fit: {problems}; --allow_partial loads the rest all the same")

    def problems(self) -> str:
        """What keeps the load from being complete, in one line; "" if nothing does."""
        kinds = [
            f"{len(self.missing)} missing ({_some(self.missing, 2)})" if self.missing else "",
            f"{len(self.unexpected)} unexpected ({_some(self.unexpected, 2)})" if self.unexpected else "",
            f"{len(self.mismatched)} of another shape ({self._first_shapes()})" if self.mismatched else "",
        ]
        return "; ".join(kind for kind in kinds if kind)

    def _first_shapes(self) -> str:
        return ", ".join(
            f"{printable(n)[:120]} {list(a)} in the file, {list(b)} wanted" for n, (a, b) in list(self.mismatched.items())[:1]
        )


def match(
    wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], prefixes: tuple[str, ...]
) -> tuple[dict[str, Tensor], LoadReport]:
    """Compare a file's tensors with a module's; only names that start with one of ``prefixes`` are loaded.

    Returns:
        The tensors to load, and the report.
    """
    asked = {name: tensor for name, tensor in given.items() if name.startswith(prefixes)}
    fits = {n: t for n, t in asked.items() if n in wanted and wanted[n].shape == t.shape}
    mismatched = {
        n: (tuple(t.shape), tuple(wanted[n].shape)) for n, t in asked.items() if n in wanted and n not in fits
    }
    total = sum(tensor.numel() for tensor in wanted.values())
    return fits, LoadReport(
        matched=sorted(fits),
        missing=sorted(n for n in wanted if n.startswith(prefixes) and n not in asked),
        unexpected=sorted(n for n in asked if n not in wanted),
        mismatched=mismatched,
        left_out=sorted(n for n in given if n not in asked),
        fresh=sorted(n for n in wanted if not n.startswith(prefixes)),
        covered=sum(tensor.numel() for tensor in fits.values()) / max(1, total),
    )


def _some(names: list[str], most: int) -> str:
    more = f", ... ({len(names) - most} more)" if len(names) > most else ""
    return ", ".join(printable(name)[:120] for name in names[:most]) + more
