"""What of a trunk goes into a detector, and the report of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from mcl.detect.base import Detector
from mcl.errors import UserError
from mcl.nn.load_report import LoadReport, match
from mcl.nn.parts import in_order, parts_of, prefixes_of


def load_trunk_into(
    detector: Detector,
    state: Mapping[str, Tensor],
    pieces: Sequence[str],
    source: str = "trunk",
    allow_partial: bool = False,
) -> LoadReport:
    """Copy pieces of a trunk, BatchNorm buffers included, into a detector.

    With the head among the pieces also what ``detector.towers()`` lists, where shapes agree.

    Args:
        state: tensors of a trunk under torchvision's names; projector and predictors never are among them.
        pieces: what to take (``mcl.nn.parts.PIECES``); those that the detector does not have are left out.
        source: what errors call the trunk.

    Raises:
        UserError: nothing fits, or (without ``allow_partial``) a tensor of these pieces is missing,
            unexpected or of another shape.
    """
    wanted = detector.state_dict()
    taken = [piece for piece in in_order(pieces) if piece in detector.pieces]
    prefixes = prefixes_of(taken, detector.head_convs)
    fits, report = match(wanted, state, prefixes)
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in fits):
            raise UserError(
                f"{source}: {parts_of(taken)}: no tensor {prefix}* of it fits: {' | '.join(report.lines(2))}"
            )
    report.require_complete(source, allow_partial)
    into_towers = _towers(detector, state, wanted, source) if "head" in pieces else {}
    fits |= {ours: state[theirs] for ours, theirs in into_towers.items()}
    detector.load_state_dict(fits, strict=False)
    return replace(
        report,
        matched=sorted(fits),
        left_out=sorted(set(report.left_out) - set(into_towers.values())),
        fresh=sorted(set(report.fresh) - set(into_towers)),
        covered=sum(t.numel() for t in fits.values()) / max(1, sum(t.numel() for t in wanted.values())),
        pieces=in_order([*taken, *(["head"] if into_towers else [])]),
        notes=_notes(into_towers, [piece for piece in detector.pieces if piece not in taken]),
    )


def _towers(
    detector: Detector, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: str
) -> dict[str, str]:
    """Tensor of a tower -> tensor of the head that it starts from."""
    pairs = detector.towers()
    found = {
        ours: theirs
        for theirs, ours in pairs
        if theirs in state and state[theirs].shape == wanted[ours].shape
    }
    if pairs and not found:
        raise UserError(f"{source}: no convolution of its head has the shape of the towers'")
    return found


def _notes(into_towers: Mapping[str, str], fresh: Sequence[str]) -> tuple[str, ...]:
    notes = [f"{', '.join(fresh)}: nothing is loaded, so fresh"] if fresh else []
    if into_towers:
        listed = ", ".join(f"{theirs} -> {ours}" for ours, theirs in into_towers.items())
        notes.append(f"towers start from the head's convolutions, {len(into_towers)} tensors: {listed}")
    return tuple(notes)
