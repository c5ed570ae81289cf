"""Checked labels of any format as a COCO JSON."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path
from typing import Any

from mcl.data.labels.coco_json import CocoScenes, SceneObject


def as_coco(scenes: CocoScenes) -> tuple[dict[str, Any], Path]:
    """(COCO's dictionary, folder that its file names start from).

    Boxes are clipped as training sees them. Keys beyond COCO's are those of ``mcl.data.labels.contract``, so that the
    JSON is measured as the set that it was made from.
    """
    root = Path(os.path.commonpath([os.path.abspath(scene.path.parent) for scene in scenes.scenes]))
    images, annotations = [], []
    for scene in scenes.scenes:
        name = Path(os.path.relpath(os.path.abspath(scene.path), root)).as_posix()
        images.append({"id": scene.id, "file_name": name, "width": scene.width, "height": scene.height, **scene.extra})
        for thing in scene.objects:
            annotations.append({"id": len(annotations) + 1, "image_id": scene.id, **_annotation(thing)})
    categories = [{"id": number, "name": name} for number, name in scenes.categories.items()]
    for category in categories:
        if category["id"] in scenes.frequency:
            category["frequency"] = scenes.frequency[category["id"]]
    content = {
        "info": {"description": f"{scenes.path}, converted by mcl", "version": metadata.version("mcl")},
        "licenses": [],
        "categories": categories,
        "images": images,
        "annotations": annotations,
    }
    if scenes.measured_as != "coco":
        content["measured_as"] = scenes.measured_as
    return content, root


def _annotation(thing: SceneObject) -> dict[str, Any]:
    x1, y1, x2, y2 = thing.box
    found: dict[str, Any] = {
        "category_id": thing.category, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": thing.area,
        "iscrowd": int(thing.crowd),
    }  # fmt: skip
    if thing.segmentation is not None:
        found["segmentation"] = thing.segmentation
    if thing.difficult:
        found["difficult"] = 1
    return found
