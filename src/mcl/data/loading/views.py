"""Augmented views of an image, as many and as large as a method asks for, each with an augmentation of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mcl.config.pretrain import ViewSettings
from mcl.data.loading.augment import apply_effects
from mcl.data.loading.decode import read_reduced
from mcl.data.loading.draws import Box, Drawn, draw, place
from mcl.data.loading.parts import CROP, DECODE, DRAW, Span, unwatched
from mcl.data.sources.pictures import Picture

REFERENCE_SIZE = 224  # blur radii are given for views of this size
GAP = 2  # a picture that no decoder reduced is halved as long as its crops keep this many times their views' pixels

Key = tuple[int, int]  # (view, scale): names a view of an image, and its stream of random numbers
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


@dataclass(frozen=True)
class Pixels:
    """A decoded picture.

    Attributes:
        array: (height, width, 3) uint8.
        full: (width, height) it has if decoded fully; crops are drawn in those pixels.
    """

    array: np.ndarray
    full: tuple[int, int]


class ViewMaker:
    """Makes the views that are wanted, of a batch of pictures: draw, cut each picture, then augment all cuts together.

    What is drawn is a function of (seed, epoch, index, view, scale); no view depends on the others of its batch.

    Args:
        settings: of augmentation.
        wanted: the views.
        seed: of what is drawn.
        span: told which part of the work goes on.
    """

    def __init__(self, settings: ViewSettings, wanted: Wanted, seed: int, span: Span = unwatched) -> None:
        self.settings, self.wanted, self.seed, self.span = settings, wanted, seed, span

    def draw(self, epochs: Sequence[int], indices: Sequence[int]) -> Drawn:
        """What happens to each view of each image."""
        views = self.wanted.views
        with self.span(DRAW):
            return draw(
                self.settings, self.seed, epochs, indices, [spec.key for spec in views], [spec.style for spec in views],
                [spec.augmented / REFERENCE_SIZE for spec in views],
            )  # fmt: skip

    def places(self, drawn: Drawn, image: int, full: tuple[int, int]) -> list[Box]:
        """Crop of each view of the batch's image number ``image``, whose (width, height) is ``full``, in its pixels."""
        shares = (spec.crop_scale or self.settings.crop_scale for spec in self.wanted.views)
        with self.span(DRAW):
            return [
                place(numbers, share, self.settings.crop_ratio, *full)
                for numbers, share in zip(drawn.places[image], shares, strict=True)
            ]

    def enough_pixels(self, places: Sequence[Box], full: tuple[int, int]) -> tuple[int, int]:
        """(width, height) at which every crop of a picture of ``full`` still has as many pixels as its view.

        Crops are drawn in pixels of the whole picture, so the JPEG decoder's reduction (1/2, 1/4, 1/8) can follow
        them. It is the same for all views of an image, for the image is decoded once.
        """
        needed = max(
            spec.augmented / min(right - left, bottom - top)
            for spec, (left, top, right, bottom) in zip(self.wanted.views, places, strict=True)
        )
        return math.ceil(full[0] * needed), math.ceil(full[1] * needed)

    def shorter_side(self) -> int:
        """Pixels of a square picture's side at which the smallest square crop still has as many as its view."""
        return max(
            math.ceil(spec.augmented / math.sqrt(max((spec.crop_scale or self.settings.crop_scale)[0], 1e-3)))
            for spec in self.wanted.views
        )

    def decode(
        self, picture: Picture, drawn: Drawn, image: int, max_pixels: int | None = None
    ) -> tuple[Pixels, list[Box]]:
        """A picture, no larger than the crops of the batch's image number ``image`` need, and those crops.

        Raises:
            UnreadableImage: see ``read_image``.
        """
        places: list[Box] = []

        def enough(size: tuple[int, int]) -> tuple[int, int]:
            places[:] = self.places(drawn, image, size)
            return self.enough_pixels(places, size)

        with self.span(DECODE):
            decoded, full = read_reduced(picture, enough, max_pixels=max_pixels)
            least = self.enough_pixels(places, full)
            fewer = min(decoded.width // least[0], decoded.height // least[1]) // GAP
            if fewer >= 2:
                decoded = decoded.reduce(2 ** int(math.log2(fewer)))
            return Pixels(np.array(decoded), full), places

    def cut(self, pixels: Pixels, places: Sequence[Box]) -> list[tuple[Tensor, Box]]:
        """Each view cut out and resized, anti-aliased: ((1, 3, S, S) uint8, its place in pixels of the array)."""
        with self.span(CROP):
            return list(self._cut(pixels, places))

    def _cut(self, pixels: Pixels, places: Sequence[Box]) -> Iterator[tuple[Tensor, Box]]:
        height, width, _ = pixels.array.shape
        whole = torch.from_numpy(pixels.array).permute(2, 0, 1)[None]  # channels last: torch's quick way to resize
        per_x, per_y = width / pixels.full[0], height / pixels.full[1]
        for spec, place_ in zip(self.wanted.views, places, strict=True):
            left, right = _whole_pixels(place_[0] * per_x, place_[2] * per_x, width)
            top, bottom = _whole_pixels(place_[1] * per_y, place_[3] * per_y, height)
            part = whole[:, :, top:bottom, left:right]
            resized = F.interpolate(part, (spec.augmented, spec.augmented), mode="bilinear", antialias=True)
            yield resized, (left, top, right, bottom)

    def join(self, cuts: Sequence[Sequence[Tensor]]) -> dict[int, Tensor]:
        """Cuts of N images -> side S -> (V N, 3, S, S), view by view of those that are augmented at that size."""
        with self.span(CROP):
            return {
                side: torch.cat([of_image[view] for view in views for of_image in cuts])
                for side, views in self._views_by_side()
            }

    def finish(self, joined: Mapping[int, Tensor], effects: np.ndarray) -> dict[Key, Tensor]:
        """Augment what ``join`` gave, in place: key -> (N, 3, size, size) uint8, on the device of its tensors.

        Args:
            effects: (N, V, len(EFFECTS)), as drawn.
        """
        made: dict[Key, Tensor] = {}
        for side, views in self._views_by_side():
            largest = self.settings.blur_radius[1] * side / REFERENCE_SIZE
            of_side = np.concatenate([effects[:, view] for view in views])
            augmented = apply_effects(joined[side], of_side, self.settings, largest, self.span)
            for view, pixels in zip(views, augmented.split(len(effects)), strict=True):
                spec = self.wanted.views[view]
                made[spec.key] = pixels[..., :: spec.stride, :: spec.stride].contiguous()
        return {spec.key: made[spec.key] for spec in self.wanted.views}

    def read(self, picture: Picture, epoch: int, index: int, max_pixels: int | None = None) -> dict[Key, Tensor]:
        """Views of one picture, decoded no larger than they need: key -> (3, size, size) uint8.

        Raises:
            UnreadableImage: see ``read_image``.
        """
        drawn = self.draw([epoch], [index])
        return self._one(*self.decode(picture, drawn, 0, max_pixels), drawn)

    def __call__(self, image: Image.Image, epoch: int, index: int) -> dict[Key, Tensor]:
        """Views of a fully decoded RGB image: key -> (3, size, size) uint8."""
        drawn = self.draw([epoch], [index])
        return self._one(Pixels(np.array(image), image.size), self.places(drawn, 0, image.size), drawn)

    def _one(self, pixels: Pixels, places: Sequence[Box], drawn: Drawn) -> dict[Key, Tensor]:
        joined = self.join([[view for view, _ in self.cut(pixels, places)]])
        return {key: views[0] for key, views in self.finish(joined, drawn.effects).items()}

    def _views_by_side(self) -> Iterator[tuple[int, list[int]]]:
        sides = [spec.augmented for spec in self.wanted.views]
        for side in dict.fromkeys(sides):
            yield side, [view for view, own in enumerate(sides) if own == side]


def _whole_pixels(start: float, end: float, most: int) -> tuple[int, int]:
    """The nearest borders between pixels, at least a pixel apart."""
    first = min(round(start), most - 1)
    return first, min(max(round(end), first + 1), most)
