"""Objects of one scene pasted onto another: simple copy-paste (Ghiasi et al. 2021, arXiv 2012.07177).

As torchvision's detection reference has it: a random subset of the other scene's objects, edges blended, masks of what they
cover cut, objects that are covered whole dropped. There the scenes of a batch are pasted onto each other; here the other
scene is drawn with the image, so that a sample does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import masks_to_boxes
from torchvision.transforms.v2 import functional as F

BLUR, SIGMA = 5, 2.0  # of the pasted edge, in pixels


def choose_objects(count: int) -> Tensor:
    """Positions of a random subset of ``count`` objects, never empty: ``count`` draws with replacement, each taken once.

    Draws from torch's default generator.
    """
    return torch.unique(torch.randint(count, (count,)))


def paste(
    image: Tensor, target: Mapping[str, Any], other: Tensor, other_target: Mapping[str, Any], chosen: Tensor
) -> tuple[Tensor, dict[str, Any]]:
    """Lay objects of another scene over an image; their places are kept.

    Args:
        image: uint8 (3, H, W).
        target: ``boxes`` (n, 4), ``labels`` (n,), ``masks`` uint8 (n, H, W); a mask with values above 1 is one that
            nobody drew: it stays, and so does its box.
        other, other_target: the same of the other scene, of any size; what does not fit on the image is cut.
        chosen: positions of the other scene's objects to paste.

    Returns:
        Image and target with the objects; those that are covered whole, and pasted ones of which nothing is left, are
        gone. Boxes follow the masks of objects that were partly covered or cut, others are as they were.
    """
    size = image.shape[-2:]
    fitted, pasted = _fit(other, size), _fit(other_target["masks"][chosen], size)
    boxes = _boxes(other_target["boxes"][chosen], other_target["masks"][chosen], pasted)
    covered = pasted.bool().any(dim=0)
    alpha = F.gaussian_blur(covered.float()[None], [BLUR, BLUR], [SIGMA, SIGMA])
    mixed = (image * (1 - alpha) + fitted * alpha).round().to(torch.uint8)
    left = torch.where((target["masks"] > 1).flatten(1).any(1)[:, None, None], target["masks"], target["masks"] * ~covered)
    labels = torch.cat([target["labels"], other_target["labels"][chosen]])
    joined = {"boxes": torch.cat([_boxes(target["boxes"], target["masks"], left), boxes]), "labels": labels, "masks": torch.cat([left, pasted])}
    there = joined["masks"].bool().flatten(1).any(dim=1)
    there[: len(left)] |= ~target["masks"].bool().flatten(1).any(dim=1)  # too thin for a pixel before: not covered
    return mixed, {name: value[there] for name, value in joined.items()}


def _fit(pixels: Tensor, size: torch.Size) -> Tensor:
    """(..., h, w) cut and padded with zeros at the right and bottom to (..., H, W)."""
    height, width = pixels.shape[-2:]
    return F.pad(pixels[..., : size[0], : size[1]], [0, 0, max(0, size[1] - width), max(0, size[0] - height)])


def _boxes(boxes: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Boxes of objects, new for those whose mask has become smaller."""
    counts = after.flatten(1).sum(dim=1, dtype=torch.int64)
    smaller = (counts < before.flatten(1).sum(dim=1, dtype=torch.int64)) & (counts > 0)
    boxes = boxes.as_subclass(Tensor).clone()
    if smaller.any():
        # masks_to_boxes gives the last pixel; a box ends where that pixel does.
        boxes[smaller] = masks_to_boxes(after[smaller]) + torch.tensor([0.0, 0.0, 1.0, 1.0])
    return boxes
