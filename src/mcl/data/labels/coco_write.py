"""Write pictures and boxes as COCO JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco_mask


def box_annotation(label: int, box: Sequence[float]) -> dict[str, Any]:
    """Annotation without mask; ``box`` is (left, top, width, height) in pixels, ``label`` counts from 0."""
    box = [float(value) for value in box]
    return {"category_id": label + 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}


def mask_annotation(label: int, mask: np.ndarray) -> dict[str, Any]:
    """Annotation of the true pixels of ``mask`` ((H, W) bool, not empty): box, area, compressed RLE."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    box = (columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    counts = rle["counts"].decode("ascii") if isinstance(rle["counts"], bytes) else rle["counts"]
    return {
        **box_annotation(label, box),
        "area": float(mask.sum()),
        "segmentation": {"size": [int(side) for side in mask.shape], "counts": counts},
    }


def image_record(file_name: str, size: tuple[int, int], annotations: list[dict[str, Any]]) -> dict[str, Any]:
    """Image entry with its annotations; ``size`` is (width, height), ids are given by :func:`coco`."""
    return {"file_name": file_name, "width": size[0], "height": size[1], "annotations": annotations}


def coco(
    records: Iterable[dict[str, Any]], classes: Sequence[str], generator: str, settings: dict
) -> dict[str, Any]:
    """COCO data set of image records; image, annotation and category ids count from 1.

    A class ``animals/birds`` has the supercategory ``animals``.
    """
    images, annotations = [], []
    for image_id, record in enumerate(records, 1):
        image = {"id": image_id, **record}
        for annotation in image.pop("annotations"):
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **annotation})
        images.append(image)
    info = {
        "description": f"made by {generator}",
        "generator": generator,
        "version": metadata.version("mcl"),
        "seed": settings.get("seed"),
        "settings": settings,
    }
    categories = [
        {"id": label, "name": name, "supercategory": name.rpartition("/")[0]}
        for label, name in enumerate(classes, 1)
    ]
    return {
        "info": info,
        "licenses": [],
        "categories": categories,
        "images": images,
        "annotations": annotations,
    }


def write_json(path: Path, dataset: dict[str, Any]) -> None:
    """Write a data set as ASCII JSON: names of cut-outs need not be valid UTF-8."""
    path.write_text(json.dumps(dataset), "ascii")
