"""Names of the parts of a loader's work, for whoever wants to time them (``mcl bench data``)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

DECODE, DRAW, CROP, COLOUR, BLURRING = "decode", "draw", "crop", "colour", "blur"  # crop: and resize

Span = Callable[[str], AbstractContextManager[None]]  # called with a part's name, a block for it to go on in


def unwatched(_part: str) -> AbstractContextManager[None]:
    """A span that nobody times."""
    return nullcontext()
