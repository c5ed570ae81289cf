"""What was found, drawn on the image itself and written as COCO annotations."""

from __future__ import annotations

from typing import Any

from PIL import Image

from mcl.data.labels.coco_write import box_annotation, mask_annotation
from mcl.detect.figure import COLOURS, Mark, draw_marks
from mcl.detect.loaded import Detections
from mcl.errors import printable

SMALLEST, LARGEST = 480, 1600  # longer side of a drawn image in pixels: texts must be readable


def drawn(image: Image.Image, found: Detections) -> Image.Image:
    """The image with boxes, masks, classes and scores; enlarged if it is tiny, shrunk if it is huge."""
    marks = []
    for i in range(len(found) - 1, -1, -1):  # the best lie on top
        text = f"{printable(found.names[i])} {float(found.scores[i]):.2f}"
        mask = found.masks[i].numpy() if found.masks is not None else None
        marks.append(Mark(tuple(found.boxes[i].tolist()), text, COLOURS[int(found.labels[i]) % len(COLOURS)], mask))
    longer = max(image.size)
    wanted = min(max(longer, SMALLEST), LARGEST)
    return draw_marks(image, marks, wanted / longer)


def annotations_of(found: Detections) -> list[dict[str, Any]]:
    """COCO annotations with ``score``, and with ``segmentation`` (RLE) and its area where there are masks."""
    annotations = []
    for i in range(len(found)):
        x1, y1, x2, y2 = (round(float(v), 2) for v in found.boxes[i])
        told = box_annotation(int(found.labels[i]), (x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)))
        if found.masks is not None and found.masks[i].any():
            masked = mask_annotation(int(found.labels[i]), found.masks[i].numpy())
            told |= {"segmentation": masked["segmentation"], "area": masked["area"]}
        annotations.append({**told, "score": round(float(found.scores[i]), 5)})
    return annotations
