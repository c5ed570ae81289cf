"""The views that MCL wants of an image: for each of two views a tile of every scale (method: Views)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from mcl.data.loading.views import Key, ViewSpec

VIEWS = (1, 2)


def tile_specs(
    scales: Sequence[int], image_size: int, strided: bool, side: Callable[[int, int], int] | None = None
) -> tuple[ViewSpec, ...]:
    """A view for each view and scale s, of ``image_size / s`` pixels or ``side(image_size, s)``.

    ``strided``: augmented at s times their size.
    """
    return tuple(
        ViewSpec(
            (view, scale), side(image_size, scale) if side else image_size // scale, style, stride=scale if strided else 1
        )
        for style, view in enumerate(VIEWS)
        for scale in scales
    )


def tiles_of(views: Mapping[Key, Tensor], view: int) -> dict[int, Tensor]:
    """scale s -> (N, 3, S/s, S/s) of one view of a batch."""
    return {scale: pixels for (number, scale), pixels in views.items() if number == view}


def other_view(view: int) -> int:
    """The view whose embeddings are the targets of this one's tiles."""
    return VIEWS[1] if view == VIEWS[0] else VIEWS[0]
