"""detections.png: what is annotated beside what was found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as rle
from PIL import Image, ImageDraw, ImageFont

from mcl.data.labels.coco_json import CocoScenes, Scene
from mcl.data.labels.scenes import object_mask, read_scene
from mcl.errors import printable

TILE, GAP, CAPTION = 320, 8, 22
SHOWN_SCORE, FEWEST, MOST = 0.3, 3, 25
# Distinct on photographs, repeated for more classes (after Kelly's colours of maximum contrast).
COLOURS = [
    "#f5b800",
    "#00a6ff",
    "#ff4040",
    "#33d17a",
    "#d46bff",
    "#ff8a3d",
    "#3ee6e0",
    "#ff7ab8",
    "#b6e33e",
    "#8f9bff",
]


@dataclass(frozen=True)
class Mark:
    """One box to draw, in pixels of its image; ``mask`` is bool (h, w) or None."""

    box: tuple[float, float, float, float]
    text: str
    colour: str
    mask: np.ndarray | None = None


def detections_figure(
    scenes: CocoScenes,
    results: dict[str, list[dict[str, Any]]],
    count: int = 8,
    max_pixels: int | None = None,
) -> Image.Image:
    """Pairs (annotated, detected) of ``count`` scenes spread evenly over those with objects.

    Detections of score 0.3 and more are shown; where there are none, the best three. ``max_pixels``: see
    ``read_scene``.
    """
    chosen, colours = _chosen(scenes, count), _colours(scenes)
    masks = {(m["image_id"], k): m for k, m in enumerate(results.get("segm", []))}
    found: dict[int, list[tuple[int, dict]]] = {}
    for k, result in enumerate(results["bbox"]):
        found.setdefault(result["image_id"], []).append((k, result))
    pairs = []
    for scene in chosen:
        truth = [_annotated(thing, scene, scenes, colours) for thing in scene.objects]
        best = _best(found.get(scene.id, []))
        guesses = [_detected(result, masks.get((scene.id, k)), scenes, colours) for k, result in best]
        image = read_scene(scene, max_pixels)
        pairs.append((tile(image, truth, "annotated"), tile(image, guesses, _caption(best))))
    return grid(pairs)


def labels_figure(scenes: CocoScenes, count: int = 12, max_pixels: int | None = None) -> Image.Image:
    """What is annotated in ``count`` scenes spread evenly over those with objects; ``max_pixels``: see ``read_scene``.

    Raises:
        UserError: an image cannot be decoded.
    """
    colours = _colours(scenes)
    tiles = []
    for scene in _chosen(scenes, count):
        marks = [_annotated(thing, scene, scenes, colours) for thing in scene.objects]
        tiles.append(tile(read_scene(scene, max_pixels), marks, printable(scene.path.name)[:40]))
    return grid([*zip(tiles[::2], tiles[1::2], strict=False), *([(tiles[-1], Image.new("RGB", (1, 1), "white"))] if len(tiles) % 2 else [])])


def _chosen(scenes: CocoScenes, count: int) -> list[Scene]:
    with_objects = [scene for scene in scenes.scenes if scene.objects] or scenes.scenes
    return [with_objects[i * len(with_objects) // count] for i in range(min(count, len(with_objects)))]


def _colours(scenes: CocoScenes) -> dict[int, str]:
    return {i: COLOURS[k % len(COLOURS)] for k, i in enumerate(scenes.categories)}


def save_detections(
    path: Path, scenes: CocoScenes, results: dict[str, list[dict[str, Any]]], max_pixels: int | None = None
) -> None:
    """Write ``detections_figure`` as PNG."""
    detections_figure(scenes, results, max_pixels=max_pixels).save(path)


def _best(found: list[tuple[int, dict]]) -> list[tuple[int, dict]]:
    ranked = sorted(found, key=lambda pair: -pair[1]["score"])
    sure = [pair for pair in ranked if pair[1]["score"] >= SHOWN_SCORE]
    return sure[:MOST] or ranked[:FEWEST]


def _caption(best: list[tuple[int, dict]]) -> str:
    if not best:
        return "detected: nothing"
    return (
        "detected"
        if best[0][1]["score"] >= SHOWN_SCORE
        else f"detected: nothing above {SHOWN_SCORE}, the best {len(best)}"
    )


def _annotated(thing, scene: Scene, scenes: CocoScenes, colours: dict[int, str]) -> Mark:
    mask = object_mask(thing, scene.height, scene.width).astype(bool) if thing.segmentation else None
    name = printable(scenes.categories[thing.category]) + (" (crowd)" if thing.crowd else "")
    return Mark(thing.box, name, colours[thing.category], mask)


def _detected(result: dict, segm: dict | None, scenes: CocoScenes, colours: dict[int, str]) -> Mark:
    x, y, w, h = result["bbox"]
    mask = rle.decode(segm["segmentation"]).astype(bool) if segm else None
    mask = mask.reshape(mask.shape[:2]) if mask is not None else None
    text = f"{printable(scenes.categories[result['category_id']])} {result['score']:.2f}"
    return Mark((x, y, x + w, y + h), text, colours[result["category_id"]], mask)


def tile(image: Image.Image, marks: Sequence[Mark], caption: str) -> Image.Image:
    """One picture, enlarged or shrunk to TILE pixels, with marks and a caption above."""
    scale = TILE / max(image.size)
    picture = draw_marks(image, marks, scale)
    tile = Image.new("RGB", (TILE, CAPTION + TILE), "white")
    tile.paste(picture, ((TILE - picture.width) // 2, CAPTION + (TILE - picture.height) // 2))
    ImageDraw.Draw(tile).text((4, 3), caption, fill="#333333", font=ImageFont.load_default(14))
    return tile


def draw_marks(image: Image.Image, marks: Sequence[Mark], scale: float = 1.0) -> Image.Image:
    """A copy of an image with masks, boxes and their texts, ``scale`` times as large."""
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    picture = image.copy()
    if size != image.size:
        picture = image.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    for mark in marks:
        if mark.mask is not None:
            cover = Image.fromarray(mark.mask.astype(np.uint8) * 110).resize(size, Image.Resampling.BILINEAR)
            picture.paste(Image.new("RGB", size, mark.colour), (0, 0), cover)
    draw = ImageDraw.Draw(picture)
    for mark in marks:
        draw.rectangle([round(v * scale) for v in mark.box], outline=mark.colour, width=2)
    taken: list[tuple] = []
    for mark in sorted(marks, key=lambda mark: mark.box[1]):
        _label(draw, mark, scale, size, taken)
    return picture


def _label(
    draw: ImageDraw.ImageDraw, mark: Mark, scale: float, size: tuple[int, int], taken: list[tuple]
) -> None:
    """Write the text above its box, else below or inside it, where no other text is yet."""
    font = ImageFont.load_default(12)
    left, top, right, bottom = draw.textbbox((0, 0), mark.text, font=font)
    width, height = right - left + 6, bottom - top + 5
    x1, y1, _, y2 = (round(v * scale) for v in mark.box)
    x = min(max(0, x1), max(0, size[0] - width))
    places = [
        y for y in (y1 - height, y2 + 1, y1, y2 - height, y1 + height) if 0 <= y <= size[1] - height
    ] or [0]
    free = [y for y in places if not any(_overlap((x, y, x + width, y + height), other) for other in taken)]
    y = (free or places)[0]
    taken.append((x, y, x + width, y + height))
    draw.rectangle(taken[-1], fill=mark.colour)
    draw.text((x + 3 - left, y + 2 - top), mark.text, fill="black", font=font)


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def grid(pairs: list[tuple[Image.Image, Image.Image]], columns: int = 2) -> Image.Image:
    """A page of pairs of tiles."""
    rows = math.ceil(len(pairs) / columns)
    columns = min(columns, len(pairs))
    width, height = 2 * TILE + 3 * GAP, TILE + CAPTION + GAP
    page = Image.new("RGB", (columns * width, rows * height + GAP), "white")
    for position, (truth, found) in enumerate(pairs):
        x, y = position % columns * width + GAP, position // columns * height + GAP
        page.paste(truth, (x, y))
        page.paste(found, (x + TILE + GAP, y))
    return page
