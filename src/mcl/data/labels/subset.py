"""Part of a set's labels, drawn as the papers on semi-supervised detection draw it."""

from __future__ import annotations

from typing import Any

import numpy as np

from mcl.errors import UserError


def draw(count: int, fraction: float, fold: int) -> np.ndarray:
    """Positions of the drawn images, sorted: ``int(fraction * count)`` of ``count``, without replacement.

    The draw of Soft Teacher (arXiv 2106.09018), MMDetection's too: numpy's legacy generator, seeded with the fold,
    chooses among the images in the order of the file, those without objects included. Unbiased Teacher (2102.09480)
    draws by the same rule among images with objects, but ships the outcome, whose seed is not known.

    Raises:
        UserError: less than one image.
    """
    size = int(fraction * count)
    if size < 1:
        raise UserError(f"a share of {fraction:g} of {count} images is less than one image; draw more")
    return np.sort(np.random.RandomState(fold).choice(count, size=size, replace=False))


def subset(content: dict[str, Any], fraction: float, fold: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the drawn part, the rest) of a COCO dictionary, images and annotations in their order; all else is kept."""
    chosen = set(draw(len(content["images"]), fraction, fold).tolist())
    parts = []
    for drawn in (True, False):
        images = [image for position, image in enumerate(content["images"]) if (position in chosen) == drawn]
        ids = {image["id"] for image in images}
        annotations = [thing for thing in content["annotations"] if thing["image_id"] in ids]
        parts.append({**content, "images": images, "annotations": annotations})
    return parts[0], parts[1]
