"""Cityscapes: gtFine/SPLIT/CITY/*_gtFine_polygons.json, and leftImg8bit/SPLIT/CITY/*_leftImg8bit.png.

An image's polygons lie on each other, the last on top; an object's mask is what can be seen of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from mcl.data.labels.contract import Labels, Place, read_text
from mcl.data.labels.rle import masks_of
from mcl.errors import UserError, did_you_mean

# Classes whose objects are told apart and measured, by their official ids.
CLASSES = {
    "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
# Told apart, but not measured: neither objects nor void, as the official evaluation has it.
UNMEASURED = ("caravan", "trailer")
VOID = (
    "unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", "parking",
    "rail track", "guard rail", "bridge", "tunnel", "polegroup",
)  # fmt: skip
STUFF = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky",
)  # fmt: skip
NOT_DRAWN = ("license plate",)
SUFFIX, PICTURE = "_gtFine_polygons.json", "_leftImg8bit.png"
GROUP = "group"  # "cargroup": cars that were not told apart
NOTHING, BACKGROUND, FIRST = 0, 1, 2  # values of the map: void, measured stuff, the first object
MOST_PIXELS = 2**28


def recognise(path: Path) -> bool:
    """Whether a path is the data set's folder, its gtFine, or a split below that."""
    return (path / "gtFine").is_dir() or next(path.glob(f"*/*{SUFFIX}"), None) is not None or (
        next(path.glob(f"*/*/*{SUFFIX}"), None) is not None
    )


def read(place: Place) -> Labels:
    """The eight classes with instances: visible masks, groups as crowds, void as each image's ``void``.

    Raises:
        UserError: no such folder, or a polygon file that is wrong; with file and object.
    """
    folder = _folder(place)
    root = place.images or folder.parent.parent / "leftImg8bit" / folder.name
    images, annotations = [], []
    for number, file in enumerate(sorted(folder.glob(f"*/*{SUFFIX}")), start=1):
        with place.problems.entry():
            image, found = _image(file, number)
            images.append(image)
            annotations += found
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    if not annotations:
        raise UserError(f"{folder}: no object of the classes {', '.join(CLASSES)} in {len(images)} images")
    categories = [{"id": number, "name": name} for name, number in CLASSES.items()]
    content = {"images": images, "annotations": annotations, "categories": categories, "measured_as": "cityscapes"}
    return Labels(folder, root, content)


def _folder(place: Place) -> Path:
    """``gtFine/SPLIT`` for any of the paths that may be given."""
    path = place.path
    if next(path.glob(f"*/*{SUFFIX}"), None):
        return path
    above = path / "gtFine" if (path / "gtFine").is_dir() else path
    known = sorted({file.parents[1].name for file in above.glob(f"*/*/*{SUFFIX}")})
    split = place.split or place.role
    if split not in known:
        raise UserError(f"{above}: no split {split!r}{did_you_mean(split, known)}; it has: {', '.join(known) or 'none'}")
    return above / split


def _image(file: Path, number: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Image entry and annotations of one polygon file."""
    content = _parse(file)
    width, height = (_side(content, key, file) for key in ("imgWidth", "imgHeight"))
    if width * height > MOST_PIXELS:
        raise UserError(f"{file}: {width} x {height} pixels are more than {MOST_PIXELS:,}")
    canvas = Image.new("I", (width, height), NOTHING)
    draw, values, objects = ImageDraw.Draw(canvas), {}, []
    things = content.get("objects")
    if not isinstance(things, list):
        raise UserError(f"{file}: no list 'objects'")
    for position, thing in enumerate(things):
        where = f"{file}: object {position}"
        label, group, outline = _object(thing, where)
        if label in NOT_DRAWN or thing.get("deleted"):
            continue
        if label not in CLASSES:
            value = NOTHING if label in VOID or (label in UNMEASURED and group) else BACKGROUND
        elif group and label in values:
            value = values[label]  # all groups of a class are one
        else:
            value = FIRST + len(objects)
            objects.append((label, group, where))
            if group:
                values[label] = value
        draw.polygon(outline, fill=value)
    name = f"{file.parent.name}/{file.name.removesuffix(SUFFIX)}{PICTURE}"
    image = {"id": number, "file_name": name, "width": width, "height": height}
    masks = masks_of(np.asarray(canvas))
    if NOTHING in masks:
        image["void"] = masks[NOTHING].rle
    return image, [
        {
            "image_id": number, "category_id": CLASSES[label], "iscrowd": int(group), "bbox": list(mask.box),
            "area": mask.area, "segmentation": mask.rle, "where": f"{where} ({label})",
        }
        for value, (label, group, where) in enumerate(objects, start=FIRST)
        if (mask := masks.get(value))  # none: wholly covered
    ]  # fmt: skip


def _parse(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(file, "give Cityscapes' polygons"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not valid JSON: {' '.join(str(error).split())}; mend or remove it") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected an object with imgWidth, imgHeight and objects")
    return content


def _side(content: dict[str, Any], key: str, file: Path) -> int:
    if type(content.get(key)) is not int or content[key] < 1:
        raise UserError(f"{file}: {key} must be a positive whole number, got {content.get(key)!r}")
    return content[key]


def _object(thing: Any, where: str) -> tuple[str, bool, list[tuple[float, float]]]:
    """(label, whether it is a group, outline) of one entry."""
    label = thing.get("label") if isinstance(thing, dict) else None
    known = {*CLASSES, *UNMEASURED, *VOID, *STUFF, *NOT_DRAWN}
    group = label not in known and isinstance(label, str) and label.endswith(GROUP)
    name = label.removesuffix(GROUP) if group else label
    if not isinstance(name, str) or name not in known:
        raise UserError(f"{where}: label {label!r} is none of Cityscapes'{did_you_mean(str(name), known)}")
    outline = thing.get("polygon")
    if (
        not isinstance(outline, list)
        or len(outline) < 3
        or not all(isinstance(p, list) and len(p) == 2 and all(_is_near(v) for v in p) for p in outline)
    ):
        raise UserError(f"{where} ({label}): polygon must be three or more points [x, y] in pixels")
    return name, group, [tuple(point) for point in outline]


def _is_near(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**17
