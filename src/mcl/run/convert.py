"""``mcl data convert`` and ``subset``: labels of any format, or part of them, as a COCO JSON, which every command reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mcl.config.data import DataConvertSettings, DataSubsetSettings
from mcl.data.labels.convert import as_coco
from mcl.data.labels.formats import read_labels
from mcl.data.labels.subset import subset
from mcl.errors import UserError
from mcl.files import write_whole


def data_convert(settings: DataConvertSettings) -> dict[str, Any]:
    """Read and check labels and write them as a COCO JSON; returns counts, paths and a ``message`` for people.

    Raises:
        UserError: no such labels, one line about an entry that is wrong, or a file that is in the way.
    """
    _require_free(settings, "out")
    content, root, notes = _read(settings)
    return _told([_write(content, settings.out)], content, root, notes)


def data_subset(settings: DataSubsetSettings) -> dict[str, Any]:
    """Draw part of labels and write it as a COCO JSON, the rest too if asked for; returns as ``data_convert``.

    Raises:
        UserError: as ``data_convert``; a part of less than one image; ``rest`` is ``out``.
    """
    if settings.rest == settings.out:
        raise UserError(f"--rest {settings.rest}: is --out too; choose another name")
    _require_free(settings, "out", "rest")
    content, root, notes = _read(settings)
    drawn, rest = subset(content, settings.fraction, settings.fold)
    written = [_write(drawn, settings.out), *([_write(rest, settings.rest)] if settings.rest else [])]
    return _told(written, drawn, root, notes)


def _require_free(settings: DataConvertSettings, *names: str) -> None:
    for name in names:
        path = getattr(settings, name)
        if path and path.exists() and not settings.overwrite:
            raise UserError(f"--{name} {path}: is there already; choose another name, or give --overwrite true")


def _read(settings: DataConvertSettings) -> tuple[dict[str, Any], Path, list[str]]:
    """(COCO's dictionary, folder of its images, notes)."""
    scenes = read_labels(settings.labels, settings.images, settings.max_missing)
    return *as_coco(scenes), scenes.notes


def _write(content: dict[str, Any], path: Path) -> str:
    """Write a COCO JSON; a line about what is in it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(content) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None
    images, boxes, classes = (len(content[key]) for key in ("images", "annotations", "categories"))
    return f"{path}: {images:,} images, {boxes:,} boxes of {classes} classes"


def _told(written: list[str], content: dict[str, Any], root: Path, notes: list[str]) -> dict[str, Any]:
    use = f"use it: mcl finetune --train {written[0].rpartition(': ')[0]} --images {root} ..."
    return {
        "images": len(content["images"]), "boxes": len(content["annotations"]),
        "classes": [category["name"] for category in content["categories"]], "root": str(root),
        "message": "\n".join([*notes, *written, use]),
    }  # fmt: skip
