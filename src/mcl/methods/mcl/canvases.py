"""What MCL's networks see: drawn anew for every step, from the seed, the step, the micro-batch, the view and the scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mcl.methods.mcl.localise import jitter
from mcl.methods.mcl.micro_batches import MicroBatch
from mcl.methods.mcl.networks import MclNetworks
from mcl.methods.mcl.regions import Regions, boxes_anywhere, regions_in_view
from mcl.methods.mcl.scattered import Places, draw_places, scatter
from mcl.methods.mcl.tiles import VIEWS, tiles_of
from mcl.methods.montage import Shuffle, assemble, count_montages, draw_permutation, shuffle_from, stack
from mcl.randomness import STREAM_MONTAGE, generator_for

PLACES, JITTER, REGIONS = 1, 2, 3  # last word of a seed: keeps what is drawn for a view and scale apart


class MclCanvases(MclNetworks):
    """Lays tiles as ``method.layout`` says."""

    def montages(self, batch: int) -> dict[int, int]:
        """scale -> number of montages of a view, for a batch on this process."""
        return count_montages(batch, self.scales, self.settings.repeats, self.settings.montages)

    def draw_micro_batch(self, batch: Mapping[str, Any], step: int, number: int) -> MicroBatch:
        """Draw the montages of one micro-batch of the global batch and lay its tiles into canvases.

        Args:
            batch: of ``collate_views``: the micro-batch's images.
            step: of the run.
            number: of the micro-batch; with one a process, its rank.
        """
        like, spec = next(self.parameters()), self.trunk.spec
        images, shuffles, canvases, boxes, jittered = len(batch["index"]), {}, {}, {}, {}
        for view in VIEWS:
            shuffles[view] = self.draw_shuffle(images, step, view, number)
            tiles = {s: t.to(like.device, non_blocking=True) for s, t in tiles_of(batch["views"], view).items()}
            form = (spec.mean, spec.std, like.dtype, self.channels_last)
            if self.settings.layout == "scattered":
                places = self.draw_places(images, step, view, number)
                canvases[view], boxes[view] = scatter(tiles, shuffles[view], places, *form), places.boxes
                if self.settings.localise:
                    jittered[view] = self.draw_jitter(places, step, view, number)
            else:
                lay = stack if self.settings.layout == "batch" else assemble
                canvases[view] = lay(tiles, shuffles[view], *form)
        crops = {
            view: {s: batch["crops"][view, s].to(like.device, non_blocking=True) for s in self.scales} for view in VIEWS if "crops" in batch
        }
        regions = self.draw_regions(batch, step, number) if self.settings.regions_weight else {}
        return MicroBatch(canvases, shuffles, number, boxes, jittered, crops, regions)

    def draw_places(self, images: int, step: int, view: int, number: int = 0) -> Places:
        """Where a view's scattered tiles lie: a function of (seed, step, micro-batch, view, scale)."""
        size, drawn = self.trunk.spec.image_size, {}
        for scale, count in self.montages(images).items():
            if scale > 1:
                generator = generator_for(STREAM_MONTAGE, self.seed, step, number, view, scale, PLACES)
                drawn[scale] = draw_places(scale, count, size, images, generator)
        return Places(*({scale: row[i] for scale, row in drawn.items()} for i in range(3)))

    def draw_jitter(self, places: Places, step: int, view: int, number: int) -> dict[int, Tensor]:
        """scale -> boxes that are slightly off, by the same numbers."""
        return {
            scale: jitter(
                boxes, self.trunk.spec.image_size,
                generator_for(STREAM_MONTAGE, self.seed, step, number, view, scale, JITTER),
            )
            for scale, boxes in places.boxes.items()
        }  # fmt: skip

    def draw_regions(self, batch: Mapping[str, Any], step: int, number: int) -> dict[int, Regions]:
        """The regions of every other full-size image of one view, and the boxes that are judged.

        Views and images take turns, so that in four steps all have been looked at: finding is dense, and costs more
        than a view's tiles do.
        """
        own = slice(step // len(VIEWS) % 2 if len(batch["index"]) > 1 else 0, None, 2)
        view, size, most = VIEWS[step % len(VIEWS)], self.trunk.spec.image_size, self.settings.regions
        device, images = next(self.parameters()).device, len(batch["index"][own])
        generator = generator_for(STREAM_MONTAGE, self.seed, step, number, view, 1, REGIONS)
        anywhere = boxes_anywhere((images, 2 * most), size, generator).to(device, non_blocking=True)
        given = (batch["fields"]["boxes"][:, :most], batch["fields"]["count"].clamp(max=most), batch["crops"][view, 1])
        boxes, there = regions_in_view(*(values[own].to(device, non_blocking=True) for values in given), size)
        boxes = torch.where(there[..., None], boxes.float(), anywhere[:, :most])
        near = torch.where(there[..., None], jitter(boxes, size, generator), boxes)
        return {view: Regions(own, boxes, there, torch.cat([near, anywhere[:, most:]], dim=1))}

    def draw_shuffle(self, batch: int, step: int, view: int, rank: int = 0) -> Shuffle:
        """Which image is on which tile: a function of (seed, step, rank, view, scale)."""
        montages = self.montages(batch)
        permutations = {
            scale: draw_permutation(
                scale, montages[scale], generator_for(STREAM_MONTAGE, self.seed, step, rank, view, scale)
            )
            for scale in self.scales
            if scale > 1
        }
        return shuffle_from(permutations, batch)
