"""LVIS: COCO's JSON with categories by frequency, and for every image what was looked for in it."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from mcl.data.labels.coco_json import load_coco
from mcl.data.labels.contract import CATEGORY_LISTS, Labels, Place
from mcl.errors import UserError

FREQUENCIES = ("r", "c", "f")


def looks_like(content: dict[str, Any]) -> bool:
    """Whether a COCO dictionary is LVIS's: its first image says which categories are not in it."""
    images = content.get("images")
    first = images[0] if isinstance(images, list) and images else None
    return isinstance(first, dict) and CATEGORY_LISTS[0] in first


def read(place: Place) -> Labels:
    """LVIS v1 (and 0.5): file names from ``coco_url`` where there are none (``train2017/000000000009.jpg``).

    Raises:
        UserError: no LVIS JSON; an entry without what LVIS measures by.
    """
    return of_content(load_coco(place.path), place)


def of_content(content: dict[str, Any], place: Place) -> Labels:
    """Of a JSON that was read already."""
    path = place.path
    for key in ("images", "categories"):
        if not isinstance(content.get(key), list):
            raise UserError(f"{path}: no list {key!r}; an LVIS file has 'images', 'annotations' and 'categories'")
    for position, category in enumerate(content["categories"]):
        if not isinstance(category, dict) or category.get("frequency") not in FREQUENCIES:
            raise UserError(
                f"{path}: categories[{position}] has no 'frequency' r, c or f; for a plain COCO file give coco:{path}"
            )
    for position, image in enumerate(content["images"]):
        where = f"{path}: images[{position}]"
        if not isinstance(image, dict) or any(key not in image for key in CATEGORY_LISTS):
            raise UserError(f"{where} lacks {' or '.join(CATEGORY_LISTS)}; for a plain COCO file give coco:{path}")
        if not image.get("file_name"):
            image["file_name"] = _name_in(image.get("coco_url"), where)
    return Labels(path, place.images or path.parent, content | {"measured_as": "lvis"})


def _name_in(url: Any, where: str) -> str:
    parts = PurePosixPath(url.partition("://")[2].partition("?")[0]).parts if isinstance(url, str) else ()
    if len(parts) < 3:
        raise UserError(f"{where} has neither file_name nor a coco_url that ends in FOLDER/FILE")
    return str(Path(*parts[-2:]))
