"""worst.png: the images on which most went wrong, with what was missed and what was found falsely."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

from PIL import Image

from mcl.data.labels.coco_json import CocoScenes
from mcl.data.labels.scenes import read_scene
from mcl.detect.analysis.worst import Wrong
from mcl.detect.figure import MOST, Mark, grid, tile
from mcl.errors import printable

RIGHT, WRONG = "#9aa0a6", "#ff4040"


def worst_figure(
    scenes: CocoScenes,
    boxes: Sequence[dict[str, Any]],
    worst: Sequence[Wrong],
    score: float,
    max_pixels: int | None = None,
) -> Image.Image:
    """Pairs (annotated, detected) of the worst images; what is wrong is red.

    Args:
        boxes: all detections, in COCO's results format.
        worst: at least one image (``worst_images``).
        score: of the detections that count.
        max_pixels: see ``read_scene``.
    """
    ids, numbers = count(1), {}  # of annotations, as ``ground_truth`` counts them
    for scene in scenes.scenes:
        numbers[scene.id] = [next(ids) for _ in scene.objects]
    by_id = {scene.id: scene for scene in scenes.scenes}
    pairs = []
    for wrong in worst:
        scene, image = by_id[wrong.image], read_scene(by_id[wrong.image], max_pixels)
        truth = [
            _mark(thing.box, printable(scenes.categories[thing.category]), "missed ", number in wrong.missed)
            for number, thing in zip(numbers[scene.id], scene.objects, strict=True)
            if not thing.crowd
        ]
        sure = sorted((box for box in boxes if box["image_id"] == scene.id and box["score"] >= score), key=lambda box: -box["score"])
        false = {(tuple(result["bbox"]), result["category_id"], result["score"]) for result in wrong.false}
        found = [_detected(box, scenes, (tuple(box["bbox"]), box["category_id"], box["score"]) in false) for box in sure[:MOST]]
        shown = f" (the best {MOST} of {len(sure)})" if len(sure) > MOST else ""
        pairs.append((
            tile(image, truth, f"{printable(scene.path.name)}: {len(wrong.missed)} of {len(truth)} missed"),
            tile(image, found, f"{len(wrong.false)} of {len(sure)} detections false{shown}"),
        ))  # fmt: skip
    return grid(pairs)


def _mark(box: tuple[float, float, float, float], name: str, what: str, wrong: bool) -> Mark:
    return Mark(box, what + name if wrong else name, WRONG if wrong else RIGHT)


def _detected(result: dict[str, Any], scenes: CocoScenes, wrong: bool) -> Mark:
    x, y, w, h = result["bbox"]
    name = f"{printable(scenes.categories[result['category_id']])} {result['score']:.2f}"
    return _mark((x, y, x + w, y + h), name, "", wrong)
