"""Labels by path: which format they are in, and reading them by one contract (mcl.data.labels.contract).

``[FORMAT:]PATH[#SPLIT]``, several with commas: ``train.json``, ``voc:VOC2007#trainval,VOC2012#trainval``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mcl.data.labels import cityscapes, lvis, voc, yolo
from mcl.data.labels.coco_json import CocoScenes, load_coco, scenes_of
from mcl.data.labels.contract import CATEGORY_LISTS, Labels, Place, Problems, Role
from mcl.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Format:
    """A label format: how it is read, how its path is known, and what its path is called."""

    read: Callable[[Place], Labels]
    recognise: Callable[[Path], bool]
    path: str


def _is_json(path: Path) -> bool:
    return path.suffix == ".json"


def _read_coco(place: Place) -> Labels:
    return Labels(place.path, place.images or place.path.parent, load_coco(place.path))


FORMATS = {
    "coco": Format(_read_coco, _is_json, "train.json"),
    "lvis": Format(lvis.read, lambda path: False, "lvis_v1_train.json"),  # a JSON's content tells it from COCO's
    "voc": Format(voc.read, voc.recognise, "VOC2007#trainval"),
    "cityscapes": Format(cityscapes.read, cityscapes.recognise, "cityscapes#train"),
    "yolo": Format(yolo.read, yolo.recognise, "data.yaml"),
}


def read_labels(
    given: str | Path,
    images: Path | None = None,
    max_missing: float = 0.0,
    role: Role = "train",
    problems: Problems | None = None,
) -> CocoScenes:
    """Checked scenes of labels in any format.

    Args:
        given: ``[FORMAT:]PATH[#SPLIT]``, several with commas.
        images: folder that file names start from; None: where the format has them (COCO, LVIS: beside the JSON).
        max_missing: share of images that may be missing; they are left out and counted.
        role: the split of it that is read, where the path names none.
        problems: what to do about entries that are wrong; None: the first ends the reading.

    Raises:
        UserError: no format or file there, or one line about an entry that is wrong.
    """
    found = [
        scenes_of(labels, max_missing, problems) for labels in _sets(str(given), images, role, problems or Problems())
    ]
    return found[0] if len(found) == 1 else joined(found)


def find_labels(given: str | Path, images: Path | None = None, role: Role = "train") -> Labels:
    """Labels of one set in COCO's terms, not checked yet; arguments as ``read_labels``.

    Raises:
        UserError: as ``read_labels``; several sets.
    """
    found = list(_sets(str(given), images, role, Problems()))
    if len(found) > 1:
        raise UserError(f"{given}: these are {len(found)} sets; make one JSON of them first with mcl data convert")
    return found[0]


def _sets(given: str, images: Path | None, role: Role, problems: Problems) -> Iterator[Labels]:
    format = None
    for part in _parts(given):
        named, path, split = _split(part)
        format = named or format  # voc:A,B: both are VOC's
        yield _read(format, Place(path, split, role, images, problems))


def _parts(given: str) -> list[str]:
    return [given] if os.path.exists(given) else [part for part in given.split(",") if part]


def _split(part: str) -> tuple[str | None, Path, str | None]:
    """(format, path, split) of one entry; a path that is there is taken as it is."""
    name, colon, rest = part.partition(":")
    if os.path.exists(part) or not colon or len(name) == 1 or os.sep in name:  # C:\..., ./a:b
        name, rest = "", part
    elif name not in FORMATS:
        raise UserError(f"{part}: no label format {name!r}{did_you_mean(name, FORMATS)}; there are: {', '.join(FORMATS)}")
    path, _, split = (rest, "", "") if os.path.exists(rest) else rest.partition("#")
    return name or None, Path(path), split or None


def _read(name: str | None, place: Place) -> Labels:
    if name:
        _require(place.path)
        return FORMATS[name].read(place)
    known = next((format for format in FORMATS.values() if format.recognise(place.path)), None)
    if known is None:
        _require(place.path)
        raise UserError(
            f"{place.path}: what labels are these? give "
            + ", ".join(f"{name}:{format.path}" for name, format in FORMATS.items())
        )
    labels = known.read(place)
    return lvis.of_content(labels.content, place) if lvis.looks_like(labels.content) else labels


def _require(path: Path) -> None:
    if not os.path.exists(path):
        raise UserError(f"{path}: No such file or folder")


def joined(parts: list[CocoScenes]) -> CocoScenes:
    """Several sets as one: ids counted anew, classes brought together by name.

    Raises:
        UserError: sets with different metrics.
    """
    metrics = {part.measured_as for part in parts}
    if len(metrics) > 1:
        raise UserError(f"{parts[0].path} and {parts[1].path}: {' and '.join(sorted(metrics))} labels do not go together")
    names = dict.fromkeys(name for part in parts for name in part.categories.values())
    ids = {name: number for number, name in enumerate(names, start=1)}
    scenes, frequency = [], {}
    for part in parts:
        own = {old: ids[name] for old, name in part.categories.items()}
        frequency |= {own[old]: often for old, often in part.frequency.items()}
        for scene in part.scenes:
            objects = tuple(replace(thing, category=own[thing.category]) for thing in scene.objects)
            extra = {
                key: [own[old] for old in value if old in own] if key in CATEGORY_LISTS else value
                for key, value in scene.extra.items()
            }
            scenes.append(replace(scene, id=len(scenes) + 1, objects=objects, extra=extra))
    return CocoScenes(
        Path("+".join(str(part.path) for part in parts)), {number: name for name, number in ids.items()}, scenes,
        [note for part in parts for note in part.notes], metrics.pop(), frequency,
    )  # fmt: skip
