"""What happens to each view of each image of a batch, drawn before a pixel is touched."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mcl.config.pretrain import ViewSettings
from mcl.randomness import STREAM_VIEWS, seed_for, uniform

CROP_ATTEMPTS = 10
JITTERS = ("brightness", "contrast", "saturation", "hue")
ORDERS = np.array(list(itertools.permutations(range(len(JITTERS)))))  # (24, 4): jitter at each turn
UNJITTERED = -1  # instead of a row of ORDERS

# A view's row of Drawn.effects. Factors of brightness, contrast and saturation are 1 for no change; hue is a shift in
# turns; order a row of ORDERS; blur its radius (standard deviation) in pixels of the view, 0: none; the rest 0 or 1.
EFFECTS = ("flip", "order", *JITTERS, "gray", "blur", "solarize")
FLIP, ORDER, FACTORS, GRAY, BLUR, SOLARIZE = 0, 1, slice(2, 6), 6, 7, 8
_NUMBERS = 4 * CROP_ATTEMPTS + len(EFFECTS) + 2  # jitter and blur need another each: whether they happen

Box = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True)
class Drawn:
    """For N images and V views each.

    Attributes:
        places: (N, V, attempts, 4) uniform numbers that a crop is made of once the picture's size is known.
        effects: (N, V, len(EFFECTS)) float32.
    """

    places: np.ndarray
    effects: np.ndarray


def draw(
    settings: ViewSettings, seed: int, epochs: Sequence[int], indices: Sequence[int], keys: Sequence[tuple[int, int]],
    styles: Sequence[int], radius_scale: Sequence[float],
) -> Drawn:  # fmt: skip
    """Draw for a batch; what an image's view gets is a function of (seed, epoch, index, view, scale) alone.

    Args:
        settings: probabilities and strengths.
        epochs, indices: of N images.
        keys: (view, scale) of V views.
        styles: 0 or 1 for each view: which of the two probabilities of blur and solarize holds.
        radius_scale: of each view, times ``settings.blur_radius`` is the range of its blur in pixels.
    """
    of_views, of_images = np.array(keys), np.array([*epochs, *indices]).reshape(2, -1, 1)
    numbers = uniform(_NUMBERS, seed_for(STREAM_VIEWS, seed), *of_images, *of_views.T)
    split = 4 * CROP_ATTEMPTS
    places = numbers[..., :split].reshape(*numbers.shape[:2], CROP_ATTEMPTS, 4)
    return Drawn(places, _effects(settings, numbers[..., split:], np.array(styles), np.array(radius_scale)))


def place(numbers: np.ndarray, share: tuple[float, float], ratios: tuple[float, float], width: int, height: int) -> Box:
    """A crop of a picture of ``width`` x ``height``; torchvision's rule for ``RandomResizedCrop``.

    Ten attempts at area and aspect ratio, else the largest central crop of a ratio in range.

    Args:
        numbers: (attempts, 4) uniform: area, ratio, left, top.
        share: range of the crop's share of the picture's area.
        ratios: range of width / height, drawn evenly in its logarithm.
    """
    shortest, longest = ratios
    low, high = math.log(shortest), math.log(longest)
    for attempt in numbers:
        u_area, u_ratio, u_left, u_top = attempt.tolist()
        area = width * height * (share[0] + (share[1] - share[0]) * u_area)
        ratio = math.exp(low + (high - low) * u_ratio)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(u_left * (width - w + 1)), int(u_top * (height - h + 1))
            return left, top, left + w, top + h
    w, h = width, height
    if width / height < shortest:
        h = round(w / shortest)
    elif width / height > longest:
        w = round(h * longest)
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _effects(settings: ViewSettings, numbers: np.ndarray, styles: np.ndarray, radius_scale: np.ndarray) -> np.ndarray:
    flip, jitter, order, *factors, gray, blur, radius, solarize = np.moveaxis(numbers, -1, 0)
    made = np.zeros((*flip.shape, len(EFFECTS)), np.float32)
    made[..., FLIP] = flip < settings.flip
    jittered = jitter < settings.jitter
    made[..., ORDER] = np.where(jittered, (order * len(ORDERS)).astype(int), UNJITTERED)
    for column, name, u in zip(range(FACTORS.start, FACTORS.stop), JITTERS, factors, strict=True):
        low, high = _range(name, getattr(settings, name))
        made[..., column] = low + (high - low) * u
    made[..., GRAY] = gray < settings.gray
    low, high = settings.blur_radius
    made[..., BLUR] = np.where(blur < np.array(settings.blur)[styles], (low + (high - low) * radius) * radius_scale, 0)
    made[..., SOLARIZE] = solarize < np.array(settings.solarize)[styles]
    return made


def _range(name: str, strength: float) -> tuple[float, float]:
    return (-strength, strength) if name == "hue" else (max(0.0, 1.0 - strength), 1.0 + strength)
