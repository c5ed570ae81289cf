"""The losses of MCL's levels for canvases that a test lays itself."""

from __future__ import annotations

import torch

from mcl.data.loading.views import ViewMaker, Wanted
from mcl.engine.processes.distributed import rank
from mcl.methods.mcl.micro_batches import MicroBatch, everyones
from mcl.methods.mcl.tiles import VIEWS, tile_specs


def levels_of(method, canvases, shuffles):
    """((view, scale) -> loss on this process, health of all targets)."""
    own = MicroBatch(canvases, shuffles, rank())
    targets, health = everyones([method.own_targets(own)])
    return method.level_losses(own, targets), health


def view_maker(settings, scales, image_size, seed) -> ViewMaker:
    """Makes MCL's tiles."""
    return ViewMaker(settings, Wanted(tile_specs(scales, image_size, settings.downsample == "stride")), seed)


def random_batch(images: int, scales, generator: torch.Generator, image_size: int = 64) -> dict:
    """A batch of MCL's tiles, of random pixels."""
    views = {
        (view, s): torch.randint(0, 256, (images, 3, image_size // s, image_size // s), generator=generator, dtype=torch.uint8)
        for view in VIEWS
        for s in scales
    }  # fmt: skip
    return {"views": views, "index": torch.arange(images), "unreadable": []}
