"""Parts of a trunk and their pieces: how they are called, and which tensors they are.

A piece is the least that is trained or not: the backbone, one level of the pyramid (its output convolution, its lateral
and those above, which its map is made from), the head's convolutions. Users ask for parts, which are pieces in the order of the trunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

from mcl.config.parts import Parts
from mcl.errors import UserError, did_you_mean

LEVELS = ("p2", "p3", "p4", "p5")
PIECES = ("backbone", *LEVELS, "head")
PARTS: tuple[str, ...] = get_args(Parts)
PYRAMID = "pyramid"  # all levels in one word
BODY, FPN, HEAD = "backbone.body.", "backbone.fpn.", "roi_heads.box_head."


def pieces_of(parts: str) -> tuple[str, ...]:
    """``backbone+pyramid`` -> ``("backbone", "p2", "p3", "p4", "p5")``; single levels (``backbone+p5``) are understood.

    Raises:
        UserError: an unknown name.
    """
    found: set[str] = set()
    for name in parts.split("+"):
        if name not in (*PIECES, PYRAMID):
            raise UserError(f"no parts {parts!r}{did_you_mean(parts, PARTS)}; there are: {', '.join(PARTS)}")
        found |= set(LEVELS) if name == PYRAMID else {name}
    return in_order(found)


def parts_of(pieces: Iterable[str]) -> str:
    """In one word, as ``pieces_of`` reads it: ``backbone+pyramid+head``, ``backbone+p5+head``, or ``none``."""
    given = in_order(pieces)
    whole = set(LEVELS) <= set(given)
    names = [PYRAMID if whole and piece in LEVELS else piece for piece in given]
    return "+".join(dict.fromkeys(names)) or "none"


def least_parts(pieces: Iterable[str]) -> str:
    """The least of ``PARTS`` that holds all these pieces."""
    given = set(pieces)
    return next(parts for parts in PARTS if given <= set(pieces_of(parts)))


def in_order(pieces: Iterable[str]) -> tuple[str, ...]:
    """Each once, in the order of the trunk; names that are no pieces are dropped."""
    given = set(pieces)
    return tuple(piece for piece in PIECES if piece in given)


def prefixes_of(pieces: Iterable[str], head_convs: int | None = None) -> tuple[str, ...]:
    """Beginnings of the names of the tensors of these pieces.

    Args:
        pieces: of ``PIECES``.
        head_convs: number of convolutions, for a detector, whose box head holds more than the trunk's; None: a trunk.
    """
    return tuple(prefix for piece in in_order(pieces) for prefix in _prefixes(piece, head_convs))


def _prefixes(piece: str, head_convs: int | None) -> tuple[str, ...]:
    if piece == "backbone":
        return (BODY,)
    if piece == "head":
        return (HEAD,) if head_convs is None else tuple(f"{HEAD}{i}." for i in range(head_convs))
    level = LEVELS.index(piece)
    laterals = (f"{FPN}inner_blocks.{above}." for above in range(level, len(LEVELS)))
    return *laterals, f"{FPN}layer_blocks.{level}."


def pieces_in(names: Iterable[str]) -> tuple[str, ...]:
    """The pieces that a list of tensor names has all kinds of tensors of; a level needs its lateral and its output."""
    listed = list(names)
    return tuple(
        piece
        for piece in PIECES
        if all(any(name.startswith(prefix) for name in listed) for prefix in _prefixes(piece, None))
    )


def trained_in(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """What a trunk file's metadata says was trained; files of before, which only know ``parts``, mean all levels.

    Raises:
        UserError: names that are none.
    """
    told = metadata.get("trained")
    if told is None:
        parts = metadata.get("parts")
        return pieces_of(parts) if parts in PARTS else PIECES
    if not isinstance(told, list | tuple) or not set(map(str, told)) <= set(PIECES):
        raise UserError(f"its metadata says that {told!r} was trained; known are {', '.join(PIECES)}")
    return in_order(told)


def choose_pieces(
    asked: str | None, trained: Iterable[str], source: str, allow_partial: bool, remedy: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What to take of a trunk: (pieces to take, pieces that were asked for and never trained).

    Args:
        asked: parts; None: what was trained.
        trained: of the trunk.
        source: what errors call the trunk.
        allow_partial: asking for more than was trained is no error.
        remedy: what the user can do about that error.

    Raises:
        UserError: more is asked for than was trained.
    """
    has = in_order(trained)
    wanted = has if asked is None else pieces_of(asked)
    lacking = tuple(piece for piece in wanted if piece not in has)
    if lacking and not allow_partial:
        raise UserError(
            f"{source}: {asked} is asked for, but it has no trained {', '.join(lacking)} (trained: {parts_of(has)}); {remedy}"
        )
    return tuple(piece for piece in wanted if piece in has), lacking
