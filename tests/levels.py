"""The losses of MCL's levels for canvases that a test lays itself."""

from __future__ import annotations

import torch

from mcl.data.loading.views import ViewMaker, Wanted
from mcl.engine.processes.distributed import rank
from mcl.methods.mcl.micro_batches import MicroBatch, everyones
from mcl.methods.mcl.regions import Regions, boxes_anywhere
from mcl.methods.mcl.tiles import VIEWS, tile_specs


def levels_of(method, canvases, shuffles):
    """((view, scale) -> loss on this process, health of all targets)."""
    own = MicroBatch(canvases, shuffles, rank())
    targets, health = everyones([method.own_targets(own)])
    predictions = {view: method.predict(method.read_online(own, view).embeddings) for view in VIEWS}
    return method.compare(own, predictions, targets), health


def view_maker(settings, scales, image_size, seed) -> ViewMaker:
    """Makes MCL's tiles."""
    return ViewMaker(settings, Wanted(tile_specs(scales, image_size, settings.downsample == "stride")), seed)


def random_batch(images: int, scales, generator: torch.Generator, image_size: int = 64, side=None) -> dict:
    """A batch of MCL's tiles, of random pixels; ``side``: of a tile where it is not ``image_size / s``."""
    views = {}
    for view in VIEWS:
        for s in scales:
            t = side(image_size, s) if side else image_size // s
            views[view, s] = torch.randint(0, 256, (images, 3, t, t), generator=generator, dtype=torch.uint8)
    crops = {key: torch.rand(images, 5, generator=generator, dtype=torch.float64) for key in views}
    for cut in crops.values():
        cut[:, :4] = 0.3 * cut[:, :4] + torch.tensor([0.0, 0, 0.7, 0.7])
    return {"views": views, "crops": crops, "index": torch.arange(images), "unreadable": []}


def random_regions(images: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Fields of a batch whose images have up to three regions; some have none."""
    return {
        "boxes": boxes_anywhere((images, 3), 1, generator).double(),
        "count": torch.randint(0, 4, (images,), generator=generator),
    }


def joint_regions(drawn) -> dict[int, Regions]:
    """Regions of the batch that some micro-batches (of evenly many images) make up."""
    return {
        view: Regions(
            first.images,
            *(torch.cat([getattr(own.regions[view], name) for own in drawn]) for name in ("boxes", "there", "judged")),
        )
        for view, first in drawn[0].regions.items()
    }
