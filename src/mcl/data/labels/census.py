"""What is in a labelled set: images, boxes by class and size, and what sizes of input and anchors that suggests."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mcl.data.labels.coco_json import CocoScenes, Scene, SceneObject

SMALL, LARGE = 32**2, 96**2  # pixels of area: COCO's small, medium and large
LEAST_SIDE = 16  # pixels that nine of ten boxes should have, to cover a few cells of the finest level (stride 4)
STEP, LEAST_SIZE, MOST_SIZE = 32, 64, 1344  # of a suggested input size
TAIL = 5  # percent of boxes on either side that a suggestion may leave out


@dataclass(frozen=True)
class ClassCount:
    """One class: images that show it, boxes, and boxes by COCO's sizes; crowds are not counted."""

    name: str
    images: int
    boxes: int
    small: int
    medium: int
    large: int


@dataclass(frozen=True)
class Census:
    """A set in numbers.

    Attributes:
        images: all; ``empty``: of them without an object.
        crowds: objects that are groups, counted nowhere else.
        difficult: VOC's, counted as boxes.
        masks: objects with a segmentation.
        classes: the commonest first.
        widths, heights: least, middle and largest of the images, in pixels.
        sides: 5, 50 and 95 % of the boxes have sides (roots of their areas) below; of the image's longer side.
        ratios: the same of height / width.
        image_size: at which nine of ten boxes have sides of at least 16 px; no larger than the images are. None
            without a box.
    """

    images: int
    empty: int
    crowds: int
    difficult: int
    masks: int
    classes: list[ClassCount]
    widths: tuple[int, int, int]
    heights: tuple[int, int, int]
    sides: tuple[float, float, float] | None
    ratios: tuple[float, float, float] | None
    image_size: int | None

    @property
    def boxes(self) -> int:
        """Objects outside crowds."""
        return sum(found.boxes for found in self.classes)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "boxes": self.boxes}


def count(scenes: CocoScenes) -> Census:
    """Count a checked set."""
    things = [(scene, thing) for scene in scenes.scenes for thing in scene.objects]
    single = [(scene, thing) for scene, thing in things if not thing.crowd]
    widths, heights = (np.array([getattr(scene, side) for scene in scenes.scenes]) for side in ("width", "height"))
    sides = np.array([_side(thing) / max(scene.width, scene.height) for scene, thing in single])
    ratios = np.array([(thing.box[3] - thing.box[1]) / (thing.box[2] - thing.box[0]) for _, thing in single])
    longest = float(np.median(np.maximum(widths, heights)))
    return Census(
        len(scenes.scenes),
        sum(not scene.objects for scene in scenes.scenes),
        len(things) - len(single),
        sum(thing.difficult for _, thing in single),
        sum(thing.segmentation is not None for _, thing in single),
        _classes(scenes, single),
        _spread(widths),
        _spread(heights),
        _tails(sides) if single else None,
        _tails(ratios) if single else None,
        suggested_size(float(np.percentile(sides, 10)), longest) if single else None,
    )


def suggested_size(side: float, longest: float) -> int:
    """Input size in pixels, a multiple of 32, at which a side (of the image's longer side) has at least 16 pixels.

    Args:
        side: above 0, at most 1.
        longest: the images' longer side in pixels, which the suggestion does not exceed.
    """
    wanted = math.ceil(LEAST_SIDE / side / STEP) * STEP
    return int(max(LEAST_SIZE, min(wanted, MOST_SIZE, max(1, round(longest / STEP)) * STEP)))


def anchor_base(census: Census, image_size: int) -> float | None:
    """Side in pixels, a power of two, of the finest level's anchors that fits the smallest boxes at an input size.

    None without a box.
    """
    if census.sides is None:
        return None
    return float(min(64, max(4, 2 ** round(math.log2(census.sides[0] * image_size)))))


def _classes(scenes: CocoScenes, single: list[tuple[Scene, SceneObject]]) -> list[ClassCount]:
    shown: dict[int, set[int]] = {number: set() for number in scenes.categories}
    sizes = {number: [0, 0, 0] for number in scenes.categories}
    for scene, thing in single:
        shown[thing.category].add(scene.id)
        area = _side(thing) ** 2
        sizes[thing.category][(area >= SMALL) + (area >= LARGE)] += 1
    found = [ClassCount(name, len(shown[i]), sum(sizes[i]), *sizes[i]) for i, name in scenes.categories.items()]
    return sorted(found, key=lambda one: -one.boxes)


def _side(thing: SceneObject) -> float:
    x1, y1, x2, y2 = thing.box
    return math.sqrt((x2 - x1) * (y2 - y1))


def _spread(values: np.ndarray) -> tuple[int, int, int]:
    return int(values.min()), int(np.median(values)), int(values.max())


def _tails(values: np.ndarray) -> tuple[float, float, float]:
    low, middle, high = np.percentile(values, [TAIL, 50, 100 - TAIL])
    return round(float(low), 4), round(float(middle), 4), round(float(high), 4)
