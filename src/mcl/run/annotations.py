"""Labelled scenes of a command. They are read before torch is imported, so that a mistake in them is told at once."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.table import Table

from mcl.config.finetune import EvaluateSettings, FinetuneSettings
from mcl.data.labels.coco_json import CocoScenes, Scene, read_coco
from mcl.data.labels.sizes import require_sizes
from mcl.engine.processes.launch import rank_by_environment
from mcl.errors import printable

Labelled = FinetuneSettings | EvaluateSettings
SHOWN = 20  # classes in a table
_ahead: dict[tuple[Any, ...], CocoScenes] = {}


def read_ahead(settings: Any) -> None:
    """Read and check what a command's ``scenes_of`` will be asked for; of other commands nothing.

    Raises:
        UserError: a mistake in the labels.
    """
    if isinstance(settings, Labelled):
        for key in _wanted(settings):
            _ahead[key] = _read(*key)


def scenes_of(settings: Labelled) -> list[CocoScenes]:
    """The scenes of ``train`` (if the command has them) and ``val``: those that were read ahead, or read now.

    Raises:
        UserError: a mistake in the labels.
    """
    return [_ahead.pop(key, None) or _read(*key) for key in _wanted(settings)]


def shared_images(train: CocoScenes, val: CocoScenes) -> list[str]:
    """A warning if there are images to be measured on that are trained on."""
    trained = {_place(scene) for scene in train.scenes}
    both = sum(_place(scene) in trained for scene in val.scenes)
    if not both:
        return []
    of = f"{both:,} of {len(val.scenes):,} images of {val.path.name} are trained on ({train.path.name})"
    return [f"warning: {of}: the AP says nothing of new images"]


def class_table(train: CocoScenes, val: CocoScenes) -> Table:
    """Images and boxes of each class in both files, the commonest first; crowds are not counted."""
    names = dict.fromkeys([*train.categories.values(), *val.categories.values()])
    counts = [count_classes(scenes) for scenes in (train, val)]
    nothing = (0, 0)
    ranked = sorted(names, key=lambda name: -counts[0].get(name, nothing)[1])
    table = Table(title=f"{len(names)} classes", title_justify="left")
    table.add_column("", overflow="fold")
    for part in ("train", "val"):
        table.add_column(f"{part} images", justify="right")
        table.add_column("boxes", justify="right")
    for name in ranked[:SHOWN]:
        table.add_row(printable(name), *(f"{number:,}" for found in counts for number in found.get(name, nothing)))
    if rest := ranked[SHOWN:]:
        boxes = [f"{sum(found.get(name, nothing)[1] for name in rest):,}" for found in counts]
        table.add_row(f"{len(rest)} more", "", boxes[0], "", boxes[1])
    sums = [(f"{len(scenes.scenes):,}", f"{sum(n for _, n in found.values()):,}") for scenes, found in zip((train, val), counts, strict=True)]
    table.add_section()
    table.add_row("all", *sums[0], *sums[1])
    return table


def count_classes(scenes: CocoScenes) -> dict[str, tuple[int, int]]:
    """class -> (images that show it, boxes), without crowds."""
    images, boxes = dict.fromkeys(scenes.categories, 0), dict.fromkeys(scenes.categories, 0)
    for scene in scenes.scenes:
        found = [thing.category for thing in scene.objects if not thing.crowd]
        for category in found:
            boxes[category] += 1
        for category in set(found):
            images[category] += 1
    return {name: (images[i], boxes[i]) for i, name in scenes.categories.items()}


def _wanted(settings: Labelled) -> Iterable[tuple[Path, Path, float]]:
    if isinstance(settings, FinetuneSettings):
        yield settings.train, settings.images, settings.max_missing
        yield settings.val, settings.val_images or settings.images, settings.max_missing
    else:
        yield settings.val, settings.images, settings.max_missing


def _read(path: Path, images: Path, max_missing: float) -> CocoScenes:
    scenes = read_coco(path, images, max_missing)
    if rank_by_environment() == 0:
        require_sizes(scenes.scenes)
    return scenes


def _place(scene: Scene) -> str:
    return os.path.abspath(scene.path)
