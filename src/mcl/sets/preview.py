"""A contact sheet of a labelled set: scenes with boxes and outlines above, unlabeled images below."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco_mask
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from mcl.errors import printable

COLUMNS, ROWS = 4, 3
CELL, GAP, LINE = 240, 6, 22  # pixels
UNLABELED_COLUMNS, UNLABELED_ROWS = 8, 2
COLOURS = (
    "#ffd400",
    "#00c8ff",
    "#ff5aa5",
    "#5dff5a",
    "#ff8c1a",
    "#b18cff",
    "#ff4d4d",
    "#39ffd0",
    "#d4ff3a",
    "#6f9dff",
    "#ffb3b3",
    "#e0e0e0",
)


def write_preview(folder: Path, dataset: dict[str, Any]) -> None:
    """Write ``folder/preview.png`` from a COCO data set and ``folder/unlabeled``."""
    names = {category["id"]: printable(category["name"]) for category in dataset["categories"]}
    annotations: dict[int, list] = {image["id"]: [] for image in dataset["images"]}
    for annotation in dataset["annotations"]:
        annotations[annotation["image_id"]].append(annotation)
    scenes = [
        _drawn(folder / image["file_name"], annotations[image["id"]], names)
        for image in _spread(dataset["images"], COLUMNS * ROWS)
    ]
    width = COLUMNS * (CELL + GAP) + GAP
    small = (width - GAP) // UNLABELED_COLUMNS - GAP
    unlabeled = [_square(path, small) for path in _unlabeled(folder, UNLABELED_COLUMNS * UNLABELED_ROWS)]
    blocks = [
        (
            f"train: {len(dataset['images'])} images, {len(dataset['annotations'])} objects",
            scenes,
            COLUMNS,
            CELL,
        ),
        ("unlabeled", unlabeled, UNLABELED_COLUMNS, small),
    ]
    heights = [
        LINE + -(-len(cells) // columns) * (cell + GAP) if cells else 0 for _, cells, columns, cell in blocks
    ]
    sheet = Image.new("RGB", (width, GAP + sum(heights)), "#202020")
    top = GAP
    for (title, cells, columns, cell), height in zip(blocks, heights, strict=True):
        if cells:
            _grid(sheet, top, title, cells, columns, cell)
        top += height
    sheet.save(folder / "preview.png")


def _grid(
    sheet: Image.Image, top: int, title: str, cells: list[Image.Image], columns: int, cell: int
) -> None:
    ImageDraw.Draw(sheet).text((GAP, top), title, fill="white", font=ImageFont.load_default(14))
    for index, image in enumerate(cells):
        row, column = divmod(index, columns)
        sheet.paste(image, (GAP + column * (cell + GAP), top + LINE + row * (cell + GAP)))


def _drawn(path: Path, annotations: list[dict[str, Any]], names: dict[int, str]) -> Image.Image:
    image = _square(path, CELL)
    scale = CELL / max(_size(path))
    for annotation in annotations:
        if "segmentation" in annotation:
            outline = _outline(coco_mask.decode(annotation["segmentation"]), scale)
            image.paste(_colour(annotation), (0, 0), outline)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(11)
    for annotation in annotations:
        left, top, width, height = (scale * value for value in annotation["bbox"])
        draw.rectangle((left, top, left + width - 1, top + height - 1), outline=_colour(annotation))
        if len(names) > 1:
            label = draw.textbbox((left + 2, max(top, 0)), names[annotation["category_id"]], font=font)
            draw.rectangle((left, label[1] - 1, label[2] + 1, label[3] + 1), fill=_colour(annotation))
            draw.text((left + 2, max(top, 0)), names[annotation["category_id"]], fill="black", font=font)
    return image


def _outline(mask: np.ndarray, scale: float) -> Image.Image:
    """One-pixel inner edge of a mask, as an "L" image of the enlarged size."""
    size = [round(scale * side) for side in mask.shape[::-1]]
    large = (
        Image.fromarray(mask * 255).resize(size, Image.Resampling.BILINEAR).point(lambda v: 255 * (v >= 128))
    )
    edge = np.asarray(large) & ~np.asarray(large.filter(ImageFilter.MinFilter(3)))
    return Image.fromarray(np.pad(edge, [(0, CELL - edge.shape[0]), (0, CELL - edge.shape[1])]))


def _colour(annotation: dict[str, Any]) -> str:
    return COLOURS[(annotation["category_id"] - 1) % len(COLOURS)]


def _square(path: Path, cell: int) -> Image.Image:
    """The image scaled to fit a square cell, at its top left."""
    square = Image.new("RGB", (cell, cell), "#202020")
    with Image.open(path) as image:
        scale = cell / max(image.size)
        square.paste(image.convert("RGB").resize([max(1, round(scale * side)) for side in image.size]))
    return square


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def _unlabeled(folder: Path, count: int) -> list[Path]:
    """Evenly from each folder of unlabeled images, so that every kind is seen."""
    folders = [
        paths for entry in sorted((folder / "unlabeled").glob("*")) if (paths := sorted(entry.iterdir()))
    ]
    return [path for paths in folders for path in _spread(paths, count // len(folders))]


def _spread(items: list, count: int) -> list:
    if len(items) <= count:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]
