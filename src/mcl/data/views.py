"""Augmented tiles: two views of an image, at every scale an augmentation of its own (method: Views)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from mcl.config.pretrain import ViewSettings
from mcl.data.decode import UnreadableImage, read_image
from mcl.data.random import STREAM_VIEWS, seeded
from mcl.errors import RunFailed

VIEWS = (1, 2)
REFERENCE_SIZE = 224  # blur radii are given for views of this size


class GaussianBlur(v2.Transform):
    """Pillow's Gaussian blur with a radius drawn from a range, in pixels."""

    def __init__(self, radius: tuple[float, float]) -> None:
        super().__init__()
        self.radius = radius

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the radius."""
        return {"radius": float(torch.empty(()).uniform_(*self.radius))}

    def transform(self, inpt: Image.Image, params: dict[str, Any]) -> Image.Image:
        """Blur one image."""
        return inpt.filter(ImageFilter.GaussianBlur(params["radius"]))


def tile_transform(settings: ViewSettings, view: int, size: int) -> v2.Compose:
    """The chain of augmentations of one view for tiles of ``size`` pixels; PIL image in, PIL image out."""
    jitter = v2.ColorJitter(settings.brightness, settings.contrast, settings.saturation, settings.hue)
    radius = tuple(r * size / REFERENCE_SIZE for r in settings.blur_radius)
    position = VIEWS.index(view)
    return v2.Compose(
        [
            v2.RandomResizedCrop(
                size, settings.crop_scale, settings.crop_ratio, InterpolationMode.BILINEAR, antialias=True
            ),
            v2.RandomHorizontalFlip(settings.flip),
            v2.RandomApply([jitter], settings.jitter),
            v2.RandomGrayscale(settings.gray),
            v2.RandomApply([GaussianBlur(radius)], settings.blur[position]),
            v2.RandomSolarize(settings.solarize_threshold, settings.solarize[position]),
        ]
    )


class TileMaker:
    """Makes all tiles of an image: for each view and scale one uint8 tensor."""

    def __init__(self, settings: ViewSettings, scales: Sequence[int], image_size: int, seed: int) -> None:
        self.settings, self.scales, self.image_size, self.seed = settings, tuple(scales), image_size, seed
        self._transforms = {
            (view, scale): tile_transform(settings, view, self._augmented_size(scale))
            for view in VIEWS
            for scale in self.scales
        }

    def enough_pixels(self) -> tuple[int, int]:
        """(width, height) below which decoding at reduced size would cost sharpness in the smallest crop."""
        side = math.ceil(self.image_size / math.sqrt(self.settings.crop_scale[0] or 1e-3))
        return side, side

    def __call__(self, image: Image.Image, epoch: int, index: int) -> dict[int, dict[int, Tensor]]:
        """view -> scale s -> (3, S/s, S/s) uint8; a function of (seed, epoch, index, view, scale) and the image."""
        return {
            view: {scale: self._tile(image, epoch, index, view, scale) for scale in self.scales}
            for view in VIEWS
        }

    def _tile(self, image: Image.Image, epoch: int, index: int, view: int, scale: int) -> Tensor:
        with seeded(STREAM_VIEWS, self.seed, epoch, index, view, scale):
            tile = F.pil_to_tensor(self._transforms[view, scale](image))
        if self.settings.downsample == "stride":
            return tile[:, ::scale, ::scale].contiguous()
        return tile

    def _augmented_size(self, scale: int) -> int:
        return self.image_size if self.settings.downsample == "stride" else self.image_size // scale


class UnlabeledImages(Dataset):
    """Image files as tiles; items are asked for by (epoch, index).

    An unreadable file is replaced by the next readable one, so that batches keep their size and the order stays
    a function of the seed; which files were unreadable is told with the sample.
    """

    def __init__(self, paths: Sequence[Path], maker: TileMaker) -> None:
        self.paths, self.maker = paths, maker

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """``{"tiles": view -> scale -> uint8, "index": int, "unreadable": [(path, reason), ...]}``."""
        epoch, index = key
        unreadable: list[tuple[str, str]] = []
        for attempt in range(len(self.paths)):
            path = self.paths[(index + attempt) % len(self.paths)]
            try:
                image = read_image(path, at_least=self.maker.enough_pixels())
            except UnreadableImage as error:
                unreadable.append((str(path), str(error)))
                continue
            return {"tiles": self.maker(image, epoch, index), "index": index, "unreadable": unreadable}
        raise RunFailed(
            f"none of the {len(self.paths)} images can be read any more; the first: {unreadable[0]}"
        )


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
