"""Dynamic scale training: the loss decides what the next step trains on (Stitcher: Chen et al. 2020, section 3.3).

r_t = L_t(objects of an area < A) / L_t, where L is the box regression loss of a step; the next step is stitched if
r_t < threshold, and regular otherwise. The first step is regular, and so is one after a step without any box.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcl.engine.processes.distributed import all_reduce_mean


@dataclass
class ScaleFeedback:
    """Decides after every step.

    Attributes:
        threshold: of small objects' share.
        small: side of the square whose area is the least that is not small, in pixels of the input.
        stitch_next: whether the next step is stitched.
        regular, stitched: steps of each kind until now, which are the places of the two streams of batches.
    """

    threshold: float
    small: float
    stitch_next: bool = False
    regular: int = 0
    stitched: int = 0

    def see(self, areas: Tensor, losses: Tensor) -> dict[str, Tensor]:
        """After a step: count it, and decide on the next (the same on all processes).

        Args:
            areas: (n,) of the object that each sampled box was trained on, in pixels of the input.
            losses: (n,) box regression loss of each.

        Returns:
            ``stitched`` (of this step: 0 or 1) and ``small_share``, for the metrics.
        """
        was = self.stitch_next
        self.stitched, self.regular = self.stitched + was, self.regular + (not was)
        losses = losses.detach().double()
        sums = torch.stack([losses[areas < self.small**2].sum(), losses.sum()]).cpu()
        small, whole = all_reduce_mean(sums).tolist()
        share = small / whole if whole > 0 else 1.0
        self.stitch_next = share < self.threshold
        return {"stitched": torch.tensor(float(was)), "small_share": torch.tensor(share)}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"stitch_next": self.stitch_next, "regular": self.regular, "stitched": self.stitched}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.stitch_next, self.regular, self.stitched = (state[name] for name in ("stitch_next", "regular", "stitched"))


def small_side(image_size: int) -> float:
    """Side of the square below whose area a box is small: S / 8 within 4..32 pixels, COCO's 32 from 256 px on."""
    return min(32.0, max(4.0, image_size / 8))


def fed_back(
    feedback: ScaleFeedback, regular: Callable[[int], Iterator[Any]], stitched: Callable[[int], Iterator[Any]]
) -> Iterator[Any]:
    """Batches of the kind that the feedback asks for when the next one is asked for.

    Each kind is a stream of its own, which goes on where it was left: what a stream prepares ahead is never lost, and a
    run that is resumed finds both places in ``feedback``.

    Args:
        regular, stitched: give a stream from a step of that kind on.
    """
    streams: dict[bool, Iterator[Any]] = {}
    try:
        while True:
            kind = feedback.stitch_next
            if kind not in streams:  # the second one's loader starts when it is needed
                streams[kind] = stitched(feedback.stitched) if kind else regular(feedback.regular)
            try:
                batch = next(streams[kind])
            except StopIteration:
                return
            yield batch
    finally:
        for stream in streams.values():
            getattr(stream, "close", lambda: None)()
