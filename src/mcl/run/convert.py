"""``mcl data convert``: labels of any format as a COCO JSON, which every command reads."""

from __future__ import annotations

import json
from typing import Any

from mcl.config.data import DataConvertSettings
from mcl.data.labels.convert import as_coco
from mcl.data.labels.formats import read_labels
from mcl.errors import UserError
from mcl.files import write_whole


def data_convert(settings: DataConvertSettings) -> dict[str, Any]:
    """Read and check labels and write them as a COCO JSON; returns counts, paths and a ``message`` for people.

    Raises:
        UserError: no such labels, one line about an entry that is wrong, or a file that is in the way.
    """
    if settings.out.exists() and not settings.overwrite:
        raise UserError(f"--out {settings.out}: is there already; choose another name, or give --overwrite true")
    scenes = read_labels(settings.labels, settings.images, settings.max_missing)
    content, root = as_coco(scenes)
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(settings.out, json.dumps(content) + "\n")
    images, boxes = len(content["images"]), len(content["annotations"])
    notes = "".join(f"{note}\n" for note in scenes.notes)
    message = (
        f"{notes}{settings.out}: {images:,} images, {boxes:,} boxes of {len(scenes.categories)} classes\n"
        f"use it: mcl finetune --train {settings.out} --images {root} ..."
    )
    return {"images": images, "boxes": boxes, "classes": list(scenes.categories.values()), "root": str(root), "message": message}
