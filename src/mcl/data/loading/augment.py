"""Augmentation of one view: draw everything first, then apply it with Pillow.

The operations are torchvision's (``RandomResizedCrop``, flip, ``ColorJitter``, grayscale, blur, solarize) on
Pillow images, and the tests compare with it. They are called directly: on views of a few thousand pixels
torchvision's own bookkeeping costs more than the pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageChops, ImageFilter
from torch import Tensor

from mcl.config.pretrain import ViewSettings

CROP_ATTEMPTS = 10
JITTERS = ("brightness", "contrast", "saturation", "hue")
GAP = 2.0  # a crop is read from a halved picture as long as that is still this many times the view


@dataclass(frozen=True)
class Draw:
    """What happens to one view; sizes in pixels of the whole, upright picture.

    Attributes:
        box: (left, top, right, bottom) of the crop.
        flip: mirror it.
        jitter: operations and their factors, in the order to apply them; hue is a shift in turns.
        gray: drop the colour.
        blur: radius in pixels of the view; none: no blur.
        solarize: invert values at or above the threshold.
    """

    box: tuple[int, int, int, int]
    flip: bool
    jitter: tuple[tuple[str, float], ...]
    gray: bool
    blur: float | None
    solarize: bool


class Numbers:
    """Uniform numbers in 0..1 from a generator, fetched at once: a call for each would cost more than its use."""

    def __init__(self, generator: torch.Generator) -> None:
        self._numbers = iter(torch.rand(4 * CROP_ATTEMPTS + 20, generator=generator, dtype=torch.float64).tolist())

    def between(self, low: float, high: float) -> float:
        """Uniform in low..high."""
        return low + (high - low) * next(self._numbers)

    def below(self, count: int) -> int:
        """An integer in 0..count - 1."""
        return int(next(self._numbers) * count)

    def happens(self, probability: float) -> bool:
        """True with that probability."""
        return next(self._numbers) < probability


def draw(
    numbers: Numbers, settings: ViewSettings, style: int, size: tuple[int, int], radius: tuple[float, float],
    area: tuple[float, float],
) -> Draw:  # fmt: skip
    """Draw the augmentation of one view.

    Args:
        numbers: where chance comes from.
        settings: probabilities and strengths.
        style: 0 or 1, which of the two probabilities of blur and solarize holds.
        size: (width, height) of the whole picture.
        radius: range of the blur in pixels of the view.
        area: range of the crop's share of the picture's area.
    """
    return Draw(
        box=_draw_crop(numbers, area, settings.crop_ratio, *size),
        flip=numbers.happens(settings.flip),
        jitter=_draw_jitter(numbers, settings) if numbers.happens(settings.jitter) else (),
        gray=numbers.happens(settings.gray),
        blur=numbers.between(*radius) if numbers.happens(settings.blur[style]) else None,
        solarize=numbers.happens(settings.solarize[style]),
    )


def apply(
    drawn: Draw, levels: dict[int, Image.Image], full: tuple[int, int], size: int, solarize_threshold: int
) -> Tensor:
    """Make the view: (3, size, size) uint8.

    Args:
        levels: 1 -> the decoded RGB picture; smaller versions (2, 4, ...) are added when they are needed.
        full: (width, height) of the picture before it was decoded at reduced size.
        size: side of the view.
    """
    tile = _crop(drawn.box, levels, full, size)
    if drawn.flip:
        tile = tile.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for name, factor in drawn.jitter:
        tile = _JITTER[name](tile, factor)
    if drawn.gray:
        tile = tile.convert("L").convert("RGB")
    if drawn.blur is not None:
        tile = tile.filter(ImageFilter.GaussianBlur(drawn.blur))
    pixels = np.array(tile)
    if drawn.solarize:
        pixels = np.where(pixels >= solarize_threshold, 255 - pixels, pixels)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _draw_crop(
    numbers: Numbers, share: tuple[float, float], ratios: tuple[float, float], width: int, height: int
) -> tuple[int, int, int, int]:
    """torchvision's rule: ten attempts at area and ratio, else the largest central crop of a ratio in range."""
    shortest, longest = ratios
    for _ in range(CROP_ATTEMPTS):
        area = width * height * numbers.between(*share)
        ratio = math.exp(numbers.between(math.log(shortest), math.log(longest)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = numbers.below(width - w + 1), numbers.below(height - h + 1)
            return left, top, left + w, top + h
    w, h = width, height
    if width / height < shortest:
        h = round(w / shortest)
    elif width / height > longest:
        w = round(h * longest)
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _draw_jitter(numbers: Numbers, settings: ViewSettings) -> tuple[tuple[str, float], ...]:
    factors = {}
    for name in JITTERS:
        strength = getattr(settings, name)
        low = -strength if name == "hue" else max(0.0, 1.0 - strength)
        factors[name] = numbers.between(low, strength if name == "hue" else 1.0 + strength)
    order = list(JITTERS)
    for last in range(len(order) - 1, 0, -1):
        other = numbers.below(last + 1)
        order[last], order[other] = order[other], order[last]
    return tuple((name, factors[name]) for name in order if getattr(settings, name))


def _crop(
    box: tuple[int, int, int, int], levels: dict[int, Image.Image], full: tuple[int, int], size: int
) -> Image.Image:
    """Cut and resize in one go, anti-aliased, from the smallest version of the picture that shows no difference."""
    decoded = levels[1]
    per_x, per_y = decoded.width / full[0], decoded.height / full[1]
    smallest = min((box[2] - box[0]) * per_x, (box[3] - box[1]) * per_y)
    level = 1
    while smallest / (2 * level) >= GAP * size:
        level *= 2
        if level not in levels:
            levels[level] = levels[level // 2].reduce(2)
    source = levels[level]
    x, y = per_x / level, per_y / level
    scaled = (box[0] * x, box[1] * y, min(box[2] * x, source.width), min(box[3] * y, source.height))
    return source.resize((size, size), Image.Resampling.BILINEAR, box=scaled)


def _brightness(image: Image.Image, factor: float) -> Image.Image:
    return Image.blend(Image.new("RGB", image.size), image, factor)


def _contrast(image: Image.Image, factor: float) -> Image.Image:
    grey = int(np.asarray(image.convert("L")).mean() + 0.5)
    return Image.blend(Image.new("RGB", image.size, (grey, grey, grey)), image, factor)


def _saturation(image: Image.Image, factor: float) -> Image.Image:
    return Image.blend(image.convert("L").convert("RGB"), image, factor)


def _hue(image: Image.Image, turns: float) -> Image.Image:
    shift = int(turns * 255) % 256  # towards zero, as torchvision does
    turned = ImageChops.add_modulo(image.convert("HSV"), Image.new("HSV", image.size, (shift, 0, 0)))
    return turned.convert("RGB")


_JITTER = {"brightness": _brightness, "contrast": _contrast, "saturation": _saturation, "hue": _hue}

