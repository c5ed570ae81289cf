"""Write a composed set: unlabeled images, train and test scenes, COCO JSON, preview."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mcl.config.data import SceneSettings
from mcl.data.labels.coco_write import coco, image_record, mask_annotation, write_json
from mcl.errors import UserError
from mcl.sets.compose import Composer, Picture
from mcl.sets.cutouts import Sources
from mcl.sets.preview import write_preview

# Streams of random numbers: image i of a part has default_rng([seed, part's code, i]).
TRAIN, TEST, UNLABELED_OBJECTS, UNLABELED_SCENES, SPLIT = range(5)


@dataclass(frozen=True)
class Part:
    """A folder of pictures: where, how many, from which random stream, by which composer's method."""

    folder: str
    count: int
    code: int
    composer: str = "train"
    method: str = "scene"
    labelled: bool = False


def write_set(
    stage: Path, train: Sources, test: Sources, settings: SceneSettings, generator: str
) -> dict[str, dict[str, Any]]:
    """Compose everything into ``stage``; unlabeled pictures use the training sources only.

    Returns:
        The two COCO data sets by split name.

    Raises:
        UserError: a worker process died.
    """
    parts = [
        Part("unlabeled/objects", settings.unlabeled_objects, UNLABELED_OBJECTS, method="centred"),
        Part("unlabeled/scenes", settings.unlabeled_scenes, UNLABELED_SCENES),
        Part("images/train", settings.train_scenes, TRAIN, labelled=True),
        Part("images/test", settings.test_scenes, TEST, composer="test", labelled=True),
    ]
    composers = {"train": Composer(train, settings), "test": Composer(test, settings)}
    records: dict[str, list] = {}
    with _mapper(settings.workers, composers) as run:
        for part in parts:
            (stage / part.folder).mkdir(parents=True)
            records[part.folder] = list(run(partial(_write_picture, stage, part), range(part.count)))
    sets = {}
    for split in ("test", "train"):
        sets[split] = coco(records[f"images/{split}"], list(train.cutouts), generator, settings.recorded())
        write_json(stage / f"{split}.json", sets[split])
    write_preview(stage, sets["train"])
    return sets


_composers: dict[str, Composer] = {}


def _use(composers: dict[str, Composer]) -> None:
    _composers.update(composers)


def _write_picture(stage: Path, part: Part, index: int) -> dict[str, Any] | None:
    composer = _composers[part.composer]
    rng = np.random.default_rng([composer.settings.seed, part.code, index])
    picture = getattr(composer, part.method)(rng)
    name = f"{part.folder}/{index:06d}.jpg"
    picture.image.save(stage / name, quality=composer.settings.jpeg_quality)
    return _record(name, picture) if part.labelled else None


@contextmanager
def _mapper(workers: int, composers: dict[str, Composer]) -> Iterator[Any]:
    """A ``map`` in this process or over worker processes, in order in both cases."""
    if workers == 1:
        _use(composers)
        yield map
        _composers.clear()
        return
    # "spawn": forking a process that already runs torch's threads can hang.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, context, _use, (composers,)) as pool:
            yield partial(pool.map, chunksize=32)
    except BrokenProcessPool:
        raise UserError(
            f"--workers {workers}: a worker process died (out of memory?); try --workers 1"
        ) from None


def _record(file_name: str, picture: Picture) -> dict[str, Any]:
    """Image entry with an annotation for each object."""
    annotations = [mask_annotation(o.label, o.visible) | {"source": o.source} for o in picture.objects]
    return image_record(file_name, picture.image.size, annotations) | {"background": picture.background}
