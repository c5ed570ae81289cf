"""Four scenes of half the size on one canvas (Stitcher: Chen et al. 2020, arXiv 2004.12432, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from mcl.data.labels.coco_json import MIN_SIDE
from mcl.data.labels.scenes import Framing

SIDE = 2  # scenes along a side of the canvas
TOGETHER = SIDE * SIDE
Item = tuple[Tensor, dict[str, Any]]


def halved(framing: Framing) -> Framing:
    """The framing of a scene that becomes a quarter of a canvas."""
    return replace(
        framing,
        image_size=framing.image_size // SIDE,
        short_sides=tuple(side // SIDE for side in framing.short_sides),
        long_side=framing.long_side // SIDE,
    )


def stitch(items: Sequence[Item], colour: Sequence[int]) -> Item:
    """Lay four scenes side by side; each is at the upper left of a cell as large as the largest of them.

    Args:
        items: four images, uint8 (3, h, w), with their targets.
        colour: of what no image covers, 0..255; the mean colour of normalisation, so that it is zero there as padding is.

    Returns:
        Image (3, H, W), and a target with the ``boxes``, ``labels`` and masks of all four in pixels of the canvas, and its
        ``size``. Boxes thinner than half a pixel are gone.
    """
    height, width = (max(image.shape[axis] for image, _ in items) for axis in (-2, -1))
    canvas = torch.tensor(colour, dtype=torch.uint8)[:, None, None].repeat(1, SIDE * height, SIDE * width)
    targets = []
    for place, (image, target) in enumerate(items):
        top, left = place // SIDE * height, place % SIDE * width
        h, w = image.shape[-2:]
        canvas[:, top : top + h, left : left + w] = image
        around = [left, top, canvas.shape[-1] - left - w, canvas.shape[-2] - top - h]
        targets.append(_moved(target, top, left, around))
    joined = {name: torch.cat([target[name] for target in targets]) for name in targets[0]}
    size = tuple(canvas.shape[-2:])
    return canvas, joined | {"size": size, "original_size": size}


class StitchingCollate:
    """Collates each four items that follow each other to one canvas."""

    def __init__(self, mean: Sequence[float]) -> None:
        self.colour = [round(255 * value) for value in mean]

    def __call__(self, items: Sequence[Item]) -> tuple[list[Tensor], list[dict[str, Any]]]:
        """Items, as many as a multiple of four -> images and targets."""
        canvases = [stitch(items[i : i + TOGETHER], self.colour) for i in range(0, len(items), TOGETHER)]
        return [image for image, _ in canvases], [target for _, target in canvases]


def _moved(target: dict[str, Any], top: int, left: int, around: list[int]) -> dict[str, Tensor]:
    """A target's tensors in pixels of the canvas; ``around``: left, top, right and bottom margins of the image on it."""
    moved = {name: value for name, value in target.items() if isinstance(value, Tensor)}
    moved["boxes"] = moved["boxes"] + torch.tensor([left, top, left, top], dtype=torch.float32)
    if "masks" in moved:
        moved["masks"] = F.pad(moved["masks"], around)
    wide = (moved["boxes"][:, 2:] - moved["boxes"][:, :2] >= MIN_SIDE).all(dim=1)
    return {name: value[wide] for name, value in moved.items()}
