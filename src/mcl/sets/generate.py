"""Write a composed set: unlabeled images, train, validation and test scenes, COCO JSON, preview."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mcl.config.data import SceneSettings
from mcl.data.labels.coco_write import coco, image_record, mask_annotation, write_json
from mcl.sets.compose import Composer, Picture
from mcl.sets.pool import mapper
from mcl.sets.preview import write_preview
from mcl.sets.splits import Splits

# Streams of random numbers: image i of a part has default_rng([seed, part's code, i]); splits.py has code 4.
TRAIN, TEST, UNLABELED_OBJECTS, UNLABELED_SCENES, VAL = 0, 1, 2, 3, 5


@dataclass(frozen=True)
class Part:
    """A folder of pictures: where, how many, from which random stream, by which composer's method."""

    folder: str
    count: int
    code: int
    composer: str
    method: str = "scene"
    labelled: bool = False


def write_set(
    stage: Path, splits: Splits, settings: SceneSettings, generator: str
) -> tuple[dict[str, dict[str, Any]], int]:
    """Compose everything into ``stage``.

    Returns:
        The COCO data sets by split name, and the number of unlabeled images.

    Raises:
        UserError: a worker process died.
    """
    composers = {name: Composer(sources, settings) for name, sources in splits.named().items()}
    records: dict[str, list] = {}
    parts = _parts(splits, settings)
    with mapper(settings.workers, _use, composers) as run:
        for part in parts:
            (stage / part.folder).mkdir(parents=True)
            records[part.folder] = list(run(partial(_write_picture, stage, part), range(part.count)))
    _composers.clear()
    sets = {}
    for split in [name for name in ("test", "val", "train") if name in composers]:
        pictures, classes = records[f"images/{split}"], list(splits.train.cutouts)
        sets[split] = coco(pictures, classes, generator, settings.recorded())
        write_json(stage / f"{split}.json", sets[split])
    write_preview(stage, sets["train"])
    return sets, sum(part.count for part in parts if not part.labelled)


def _parts(splits: Splits, settings: SceneSettings) -> list[Part]:
    objects, method = settings.unlabeled_objects, "centred"
    if getattr(settings, "unlabeled_once", False):
        objects, method = min(objects, sum(map(len, splits.unlabeled.cutouts.values()))), "instance"
    parts = [
        Part("unlabeled/objects", objects, UNLABELED_OBJECTS, "unlabeled", method),
        Part("unlabeled/scenes", settings.unlabeled_scenes, UNLABELED_SCENES, "unlabeled"),
        Part("images/train", settings.train_scenes, TRAIN, "train", labelled=True),
        Part("images/test", settings.test_scenes, TEST, "test", labelled=True),
    ]
    if splits.val:
        parts.append(Part("images/val", settings.val_scenes, VAL, "val", labelled=True))
    return parts


_composers: dict[str, Composer] = {}


def _use(composers: dict[str, Composer]) -> None:
    _composers.update(composers)


def _write_picture(stage: Path, part: Part, index: int) -> dict[str, Any] | None:
    composer = _composers[part.composer]
    rng = np.random.default_rng([composer.settings.seed, part.code, index])
    picture = (
        composer.instance(rng, index) if part.method == "instance" else getattr(composer, part.method)(rng)
    )
    name = f"{part.folder}/{index:06d}.jpg"
    picture.image.save(stage / name, quality=composer.settings.jpeg_quality)
    return _record(name, picture) if part.labelled else None


def _record(file_name: str, picture: Picture) -> dict[str, Any]:
    """Image entry with an annotation for each object."""
    annotations = [mask_annotation(o.label, o.visible) | {"source": o.source} for o in picture.objects]
    return image_record(file_name, picture.image.size, annotations) | {"background": picture.background}
