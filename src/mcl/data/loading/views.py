"""Augmented tiles: two views of an image, at every scale an augmentation of its own (method: Views)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from mcl.config.pretrain import ViewSettings
from mcl.data.loading.augment import Draw, Numbers, apply, draw
from mcl.data.loading.decode import UnreadableImage, read_reduced
from mcl.data.sources.pictures import Picture
from mcl.errors import RunFailed, printable
from mcl.randomness import STREAM_VIEWS, generator_for

VIEWS = (1, 2)
MOST_IN_A_ROW = 10_000  # unreadable pictures: storage that went away is not asked a million times
REFERENCE_SIZE = 224  # blur radii are given for views of this size

Drawn = dict[tuple[int, int], Draw]  # (view, scale) -> what happens to the tile


class TileMaker:
    """Makes all tiles of an image: for each view and scale one uint8 tensor."""

    def __init__(self, settings: ViewSettings, scales: Sequence[int], image_size: int, seed: int) -> None:
        self.settings, self.scales, self.image_size, self.seed = settings, tuple(scales), image_size, seed

    def draw(self, size: tuple[int, int], epoch: int, index: int) -> Drawn:
        """(view, scale) -> what happens to that tile of a picture of ``size`` (width, height)."""
        drawn = {}
        for view in VIEWS:
            for scale in self.scales:
                numbers = Numbers(generator_for(STREAM_VIEWS, self.seed, epoch, index, view, scale))
                side = self._augmented_size(scale)
                radius = tuple(r * side / REFERENCE_SIZE for r in self.settings.blur_radius)
                drawn[view, scale] = draw(numbers, self.settings, VIEWS.index(view), size, radius)
        return drawn

    def enough_pixels(self, drawn: Drawn, size: tuple[int, int]) -> tuple[int, int] | None:
        """(width, height) at which every crop of a picture of ``size`` still has as many pixels as its tile.

        Crops are drawn in pixels of the whole picture, so the JPEG decoder's reduction (1/2, 1/4, 1/8) can follow
        them. It is the same for all tiles of an image, for the image is decoded once.
        """
        needed = 0.0
        for (_, scale), tile in drawn.items():
            left, top, right, bottom = tile.box
            needed = max(needed, self._augmented_size(scale) / min(right - left, bottom - top))
        return math.ceil(size[0] * needed), math.ceil(size[1] * needed)

    def make(self, drawn: Drawn, image: Image.Image, full: tuple[int, int]) -> dict[int, dict[int, Tensor]]:
        """Apply what was drawn: view -> scale s -> (3, S/s, S/s) uint8; ``full`` is the size before reduction."""
        levels, tiles = {1: image}, {view: {} for view in VIEWS}
        for (view, scale), tile in drawn.items():
            pixels = apply(tile, levels, full, self._augmented_size(scale), self.settings.solarize_threshold)
            strided = self.settings.downsample == "stride"
            tiles[view][scale] = pixels[:, ::scale, ::scale].contiguous() if strided else pixels
        return tiles

    def __call__(self, image: Image.Image, epoch: int, index: int) -> dict[int, dict[int, Tensor]]:
        """Tiles of a fully decoded image; a function of (seed, epoch, index, view, scale) and the image."""
        return self.make(self.draw(image.size, epoch, index), image, image.size)

    def read(
        self, picture: Picture, epoch: int, index: int, max_pixels: int | None = None
    ) -> dict[int, dict[int, Tensor]]:
        """Tiles of a picture, decoded no larger than its crops need.

        Raises:
            UnreadableImage: see ``read_image``.
        """
        drawn: Drawn = {}

        def enough(size: tuple[int, int]) -> tuple[int, int] | None:
            drawn.update(self.draw(size, epoch, index))
            return self.enough_pixels(drawn, size)

        image, full = read_reduced(picture, enough, max_pixels=max_pixels)
        return self.make(drawn, image, full)

    def _augmented_size(self, scale: int) -> int:
        return self.image_size if self.settings.downsample == "stride" else self.image_size // scale


class UnlabeledImages(Dataset):
    """Pictures of a source as tiles; items are asked for by (epoch, index).

    An unreadable file is replaced by the next readable one, so that batches keep their size and the order stays
    a function of the seed; which files were unreadable is told with the sample.
    """

    def __init__(
        self, paths: Sequence[Picture], maker: TileMaker, max_pixels: int | None = None
    ) -> None:
        self.paths, self.maker, self.max_pixels = paths, maker, max_pixels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """``{"tiles": view -> scale -> uint8, "index": int, "unreadable": [(path, reason), ...]}``."""
        epoch, index = key
        unreadable: list[tuple[str, str]] = []
        attempts = min(len(self.paths), MOST_IN_A_ROW)
        for attempt in range(attempts):
            path = self.paths[(index + attempt) % len(self.paths)]
            try:
                tiles = self.maker.read(path, epoch, index, self.max_pixels)
            except UnreadableImage as error:
                unreadable.append((printable(str(path)), str(error)))
                continue
            return {"tiles": tiles, "index": index, "unreadable": unreadable}
        which = "none of the" if attempts == len(self.paths) else "in a row, none of"
        raise RunFailed(f"{which} {attempts} images can be read any more; the first: {unreadable[0]}")


def collate_tiles(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack tiles: ``{"tiles": view -> scale -> (N, 3, S/s, S/s) uint8, "index": (N,), "unreadable": [...]}``."""
    first = samples[0]["tiles"]
    return {
        "tiles": {
            view: {scale: torch.stack([s["tiles"][view][scale] for s in samples]) for scale in first[view]}
            for view in first
        },
        "index": torch.tensor([s["index"] for s in samples]),
        "unreadable": [entry for s in samples for entry in s["unreadable"]],
    }
