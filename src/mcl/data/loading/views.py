"""Augmented views of an image, as many and as large as a method asks for, each with an augmentation of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from mcl.config.pretrain import ViewSettings
from mcl.data.loading.augment import Draw, Numbers, apply, draw
from mcl.data.loading.decode import UnreadableImage, read_reduced
from mcl.data.sources.pictures import Picture
from mcl.errors import RunFailed, printable
from mcl.randomness import STREAM_VIEWS, generator_for

MOST_IN_A_ROW = 10_000  # unreadable pictures: storage that went away is not asked a million times
REFERENCE_SIZE = 224  # blur radii are given for views of this size

Key = tuple[int, int]  # (view, scale): names a view of an image, and its stream of random numbers
Drawn = dict[Key, Draw]  # what happens to each view
Fields = Callable[[Picture, int], Mapping[str, Any]]  # (picture, its number in the source) -> name -> value


@dataclass(frozen=True)
class ViewSpec:
    """One square view that a method wants of every image.

    Attributes:
        key: (view, scale); views that show an image at full size have scale 1.
        size: side in pixels.
        style: 0 or 1, which of the two probabilities of ``views.blur`` and ``views.solarize`` it gets.
        crop_scale: share of the image's area that it shows; none: ``views.crop_scale``.
        stride: it is augmented at ``size * stride``, and every stride-th pixel kept (the authors' way to tiles).
    """

    key: Key
    size: int
    style: int
    crop_scale: tuple[float, float] | None = None
    stride: int = 1

    @property
    def augmented(self) -> int:
        """Side in pixels at which it is augmented."""
        return self.size * self.stride


@dataclass(frozen=True)
class Wanted:
    """What a method wants of every image.

    Attributes:
        views: in the order in which they are made.
        geometry: also where each view was cut: ``batch["crops"]``, key -> (N, 5) float32: left, top, right, bottom as
            fractions of the upright image's width and height, and 1 if it was mirrored.
        fields: what else of a picture (``Method.fields``), asked for by loader processes, so a function of a module or a
            picklable object: ``batch["fields"]``, name -> stacked; for labels, masks or boxes of an image.
    """

    views: tuple[ViewSpec, ...]
    geometry: bool = False
    fields: Fields | None = None


class ViewMaker:
    """Makes the views of an image that are wanted: one uint8 tensor each."""

    def __init__(self, settings: ViewSettings, wanted: Wanted, seed: int) -> None:
        self.settings, self.wanted, self.seed = settings, wanted, seed

    def draw(self, size: tuple[int, int], epoch: int, index: int) -> Drawn:
        """What happens to each view of a picture of ``size`` (width, height)."""
        drawn = {}
        for spec in self.wanted.views:
            numbers = Numbers(generator_for(STREAM_VIEWS, self.seed, epoch, index, *spec.key))
            radius = tuple(r * spec.augmented / REFERENCE_SIZE for r in self.settings.blur_radius)
            area = spec.crop_scale or self.settings.crop_scale
            drawn[spec.key] = draw(numbers, self.settings, spec.style, size, radius, area)
        return drawn

    def enough_pixels(self, drawn: Drawn, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) at which every crop of a picture of ``size`` still has as many pixels as its view.

        Crops are drawn in pixels of the whole picture, so the JPEG decoder's reduction (1/2, 1/4, 1/8) can follow
        them. It is the same for all views of an image, for the image is decoded once.
        """
        needed = 0.0
        for spec in self.wanted.views:
            left, top, right, bottom = drawn[spec.key].box
            needed = max(needed, spec.augmented / min(right - left, bottom - top))
        return math.ceil(size[0] * needed), math.ceil(size[1] * needed)

    def make(self, drawn: Drawn, image: Image.Image, full: tuple[int, int]) -> dict[Key, Tensor]:
        """Apply what was drawn: key -> (3, size, size) uint8; ``full`` is the picture's size before reduction."""
        reduced, views = {1: image}, {}
        for spec in self.wanted.views:
            pixels = apply(drawn[spec.key], reduced, full, spec.augmented, self.settings.solarize_threshold)
            views[spec.key] = pixels[:, :: spec.stride, :: spec.stride].contiguous() if spec.stride > 1 else pixels
        return views

    def __call__(self, image: Image.Image, epoch: int, index: int) -> dict[Key, Tensor]:
        """Views of a fully decoded image; a function of (seed, epoch, index, view, scale) and the image."""
        return self.make(self.draw(image.size, epoch, index), image, image.size)

    def read(
        self, picture: Picture, epoch: int, index: int, max_pixels: int | None = None, number: int | None = None
    ) -> dict[str, Any]:
        """What is wanted of a picture, decoded no larger than its crops need: ``views``, ``crops``, ``fields``.

        Args:
            index: whose random numbers are drawn.
            number: of the picture in its source; none: ``index`` (it differs where it stands for an unreadable one).

        Raises:
            UnreadableImage: see ``read_image``.
        """
        drawn: Drawn = {}

        def enough(size: tuple[int, int]) -> tuple[int, int]:
            drawn.update(self.draw(size, epoch, index))
            return self.enough_pixels(drawn, size)

        image, full = read_reduced(picture, enough, max_pixels=max_pixels)
        sample: dict[str, Any] = {"views": self.make(drawn, image, full)}
        if self.wanted.geometry:
            sample["crops"] = {key: _place(one, full) for key, one in drawn.items()}
        if self.wanted.fields:
            sample["fields"] = dict(self.wanted.fields(picture, index if number is None else number))
        return sample


class UnlabeledImages(Dataset):
    """Pictures of a source as views; items are asked for by (epoch, index).

    An unreadable file is replaced by the next readable one, so that batches keep their size and the order stays
    a function of the seed; which files were unreadable is told with the sample.
    """

    def __init__(
        self, paths: Sequence[Picture], maker: ViewMaker, max_pixels: int | None = None
    ) -> None:
        self.paths, self.maker, self.max_pixels = paths, maker, max_pixels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """What ``ViewMaker.read`` gives, ``"index": int`` and ``"unreadable": [(path, reason), ...]``."""
        epoch, index = key
        unreadable: list[tuple[str, str]] = []
        attempts = min(len(self.paths), MOST_IN_A_ROW)
        for attempt in range(attempts):
            number = (index + attempt) % len(self.paths)
            path = self.paths[number]
            try:
                sample = self.maker.read(path, epoch, index, self.max_pixels, number)
            except UnreadableImage as error:
                unreadable.append((printable(str(path)), str(error)))
                continue
            return {**sample, "index": index, "unreadable": unreadable}
        which = "none of the" if attempts == len(self.paths) else "in a row, none of"
        raise RunFailed(f"{which} {attempts} images can be read any more; the first: {unreadable[0]}")


def collate_views(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack samples: ``{"views": key -> (N, 3, size, size) uint8, "index": (N,), "unreadable": [...]}`` and what else is wanted."""
    batch: dict[str, Any] = {
        part: {key: torch.stack([s[part][key] for s in samples]) for key in samples[0][part]}
        for part in ("views", "crops")
        if part in samples[0]
    }
    if "fields" in samples[0]:
        batch["fields"] = default_collate([s["fields"] for s in samples])
    batch["index"] = torch.tensor([s["index"] for s in samples])
    batch["unreadable"] = [entry for s in samples for entry in s["unreadable"]]
    return batch


def _place(drawn: Draw, full: tuple[int, int]) -> Tensor:
    left, top, right, bottom = drawn.box
    return torch.tensor([left / full[0], top / full[1], right / full[0], bottom / full[1], float(drawn.flip)])
