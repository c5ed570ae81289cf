"""Read a COCO annotation file and check it entry by entry, so that training never meets a bad box."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcl.data.labels.contract import CATEGORY_LISTS, METRICS, Labels, Problems
from mcl.data.labels.rle import read_counts
from mcl.data.sources.pictures import leads_out
from mcl.errors import UserError

MOST_PIXELS = 2**31  # run lengths of masks are 32-bit numbers
FAR = 10  # times the image's longer side: a mask's outline that goes further is a mistake, and costs its length
MIN_SIDE = 0.5  # pixels; thinner boxes are mistakes and make the box loss's logarithm explode


@dataclass(frozen=True)
class SceneObject:
    """One annotated object: ``box`` is (x1, y1, x2, y2) in pixels, clipped to the image."""

    box: tuple[float, float, float, float]
    category: int
    crowd: bool
    area: float
    segmentation: Any = None  # COCO polygons or RLE, None if there is none
    difficult: bool = False  # VOC's: neither asked for nor wrong when measuring


@dataclass(frozen=True)
class Scene:
    """One annotated image."""

    id: int
    path: Path
    width: int
    height: int
    objects: tuple[SceneObject, ...]
    #: what only some formats have (mcl.data.labels.contract)
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CocoScenes:
    """Checked labels of any format. ``categories`` maps ids to names in the order of the ids.

    ``measured_as`` names the official metric; ``frequency``: LVIS's r, c or f of every category, else empty.
    """

    path: Path
    categories: dict[int, str]
    scenes: list[Scene]
    notes: list[str] = field(default_factory=list)
    measured_as: str = "coco"
    frequency: dict[int, str] = field(default_factory=dict)

    def count_objects(self) -> tuple[int, int]:
        """Number of objects outside crowds, and how many of them carry a segmentation."""
        single = [thing for scene in self.scenes for thing in scene.objects if not thing.crowd]
        return len(single), sum(thing.segmentation is not None for thing in single)


def read_coco(path: Path, root: Path, max_missing: float = 0.0) -> CocoScenes:
    """Read ``path`` and look for its images in ``root``.

    Boxes are clipped to their image; those without area are dropped and counted in ``notes``.

    Args:
        path: COCO JSON with the lists ``images``, ``annotations`` and ``categories``.
        root: folder that ``file_name`` starts from.
        max_missing: share of images that may be missing in ``root``; they are left out and counted.

    Raises:
        UserError: one line naming file, entry, key and value.
    """
    return scenes_of(Labels(path, root, load_coco(path)), max_missing)


def scenes_of(labels: Labels, max_missing: float = 0.0, problems: Problems | None = None) -> CocoScenes:
    """Check labels of any format; ``read_coco`` tells what of them.

    Args:
        problems: what to do about an annotation that is wrong.
    """
    path, root, content = labels.path, labels.root, labels.content
    images, annotations, categories = (
        _list_of(content, key, path) for key in ("images", "annotations", "categories")
    )
    names = _categories(categories, path)
    known = _images(images, path)
    present, notes = _present(known, path, root, max_missing)
    objects, dropped = _objects(annotations, known, names, path, problems or Problems())
    if dropped:
        notes.append(
            f"{path.name}: {dropped} of {len(annotations)} boxes have no area inside their image: left out"
        )
    scenes = [
        Scene(
            i, root / known[i]["file_name"], known[i]["width"], known[i]["height"], tuple(objects[i]),
            _extra(known[i], path),
        )
        for i in present
    ]  # fmt: skip
    _require_boxes(scenes, path)
    frequency = {entry["id"]: entry["frequency"] for entry in categories if "frequency" in entry}
    metric = content.get("measured_as", METRICS[0])
    if metric not in METRICS:
        raise UserError(f"{path}: measured_as {metric!r} is none of {', '.join(METRICS)}")
    return CocoScenes(path, names, scenes, [*labels.notes, *notes], metric, frequency)


def _extra(image: dict[str, Any], path: Path) -> dict[str, Any]:
    """What only some formats say of an image."""
    where, extra = f"{path}: image {image['id']}", {}
    for key in CATEGORY_LISTS:
        if key in image:
            if not isinstance(image[key], list) or not all(map(_is_whole, image[key])):
                raise UserError(f"{where}: {key} must be a list of category ids, got {image[key]!r}")
            extra[key] = image[key]
    if image.get("void"):
        extra["void"] = _segmentation(image["void"], image["width"], image["height"], f"{where}: void")
    return extra


def _objects(
    annotations: list[dict[str, Any]], known: dict[int, dict[str, Any]], names: dict[int, str], path: Path,
    problems: Problems,
) -> tuple[dict[int, list[SceneObject]], int]:  # fmt: skip
    """image id -> its objects, and how many have no area."""
    objects: dict[int, list[SceneObject]] = {image_id: [] for image_id in known}
    dropped = 0
    _unique(annotations, "annotations", path)
    for annotation in annotations:
        where = annotation.get("where") or f"{path}: annotation {annotation['id']}"
        with problems.entry():
            image = known.get(_hashable(annotation.get("image_id"), f"{where}: image_id"))
            if image is None:
                raise UserError(f"{where}: image_id {annotation.get('image_id')!r} is not among the images")
            if _hashable(annotation.get("category_id"), f"{where}: category_id") not in names:
                raise UserError(
                    f"{where}: category_id {annotation.get('category_id')!r} is not among the categories"
                )
            thing = _object(annotation, image, where)
            if thing is None:
                dropped += 1
            else:
                objects[image["id"]].append(thing)
    return objects, dropped


def load_coco(path: Path) -> dict[str, Any]:
    """A COCO file's content, unchecked but for being an object.

    Raises:
        UserError: it cannot be read, or is no JSON object.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; give a COCO JSON file") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a COCO file: expected an object, found a {type(content).__name__}")
    return content


def _list_of(content: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    entries = content.get(key)
    if not isinstance(entries, list):
        raise UserError(f"{path}: no list {key!r}; a COCO file has 'images', 'annotations' and 'categories'")
    if not entries:
        raise UserError(f"{path}: the list {key!r} is empty")
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or not _is_whole(entry.get("id")):
            raise UserError(f"{path}: {key}[{position}] has no whole number 'id'")
    return entries


def _unique(entries: Iterable[dict[str, Any]], key: str, path: Path) -> None:
    identifier, count = Counter(entry["id"] for entry in entries).most_common(1)[0]
    if count > 1:
        raise UserError(f"{path}: {key}: id {identifier} is given {count} times; ids must be unique")


def _categories(entries: list[dict[str, Any]], path: Path) -> dict[int, str]:
    _unique(entries, "categories", path)
    for entry in entries:
        if not isinstance(entry.get("name"), str) or not entry["name"]:
            raise UserError(f"{path}: category {entry['id']}: no 'name'")
    name, count = Counter(entry["name"] for entry in entries).most_common(1)[0]
    if count > 1:
        raise UserError(f"{path}: categories: the name {name!r} is given {count} times; names must be unique")
    return {entry["id"]: entry["name"] for entry in sorted(entries, key=lambda entry: entry["id"])}


def _images(entries: list[dict[str, Any]], path: Path) -> dict[int, dict[str, Any]]:
    _unique(entries, "images", path)
    for entry in entries:
        where, name = f"{path}: image {entry['id']}", entry.get("file_name")
        if not isinstance(name, str) or not name:
            raise UserError(f"{where}: no 'file_name'")
        if leads_out(name) or "\0" in name:
            raise UserError(f"{where}: file_name {name!r} leads out of the image folder")
        for key in ("width", "height"):
            if not _is_whole(entry.get(key)) or entry[key] < 1:
                raise UserError(f"{where}: {key} must be a positive whole number, got {entry.get(key)!r}")
        if entry["width"] * entry["height"] > MOST_PIXELS:
            raise UserError(f"{where}: {entry['width']} x {entry['height']} pixels are more than {MOST_PIXELS:,}")
    return {entry["id"]: entry for entry in entries}


def _present(
    known: dict[int, dict[str, Any]], path: Path, root: Path, max_missing: float
) -> tuple[list[int], list[str]]:
    if not os.path.isdir(root):  # not Path.is_dir: it raises where nobody may look
        raise UserError(f"{path}: no folder {root} for its images")
    missing = [entry["file_name"] for entry in known.values() if not _has_content(root / entry["file_name"])]
    if not missing:
        return list(known), []
    count = f"{len(missing)} of {len(known)} images"
    found = f"{path}: {count} are missing or empty in {root}, the first: {missing[0]!r}"
    if len(missing) == len(known) or len(missing) > max_missing * len(known):
        raise UserError(f"{found}; give their folder, or allow a share with --max_missing (now {max_missing:g})")
    gone = set(missing)
    return [i for i, entry in known.items() if entry["file_name"] not in gone], [f"{found}: left out"]


def _has_content(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size > 0
    except (OSError, ValueError):  # a name too long for the file system, say, or one that is no text
        return False


def _object(annotation: dict[str, Any], image: dict[str, Any], where: str) -> SceneObject | None:
    bbox = annotation.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(_is_number(value) for value in bbox):
        raise UserError(f"{where}: bbox must be 4 finite numbers [x, y, width, height], got {bbox!r}")
    width, height = image["width"], image["height"]
    x1, x2 = (min(max(x, 0.0), width) for x in (bbox[0], bbox[0] + bbox[2]))
    y1, y2 = (min(max(y, 0.0), height) for y in (bbox[1], bbox[1] + bbox[3]))
    if x2 - x1 < MIN_SIDE or y2 - y1 < MIN_SIDE:
        return None
    area = annotation.get("area")
    return SceneObject(
        box=(float(x1), float(y1), float(x2), float(y2)),
        category=annotation["category_id"],
        crowd=bool(annotation.get("iscrowd", 0)),
        # The area decides between small, medium and large; without one COCO's tools take the box.
        area=float(area) if _is_number(area) and area > 0 else float((x2 - x1) * (y2 - y1)),
        segmentation=_segmentation(annotation.get("segmentation"), width, height, where),
        difficult=bool(annotation.get("difficult", 0)),
    )


def _segmentation(segmentation: Any, width: int, height: int, where: str) -> Any:
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        if segmentation.get("size") != [height, width]:
            size = segmentation.get("size")
            raise UserError(f"{where}: segmentation size {size!r} is not the image's [{height}, {width}]")
        counts = segmentation.get("counts")
        # The decoder is native code that trusts them: they are checked here, in whichever form they come.
        if sum(read_counts(counts)) != height * width:
            raise UserError(f"{where}: segmentation counts do not add up to {height} x {width} pixels")
        return {"size": [height, width], "counts": counts}
    polygons = segmentation if isinstance(segmentation, list) else [segmentation]
    for polygon in polygons:
        if (
            not isinstance(polygon, list)
            or len(polygon) % 2
            or not all(_is_number(value) for value in polygon)
        ):
            raise UserError(
                f"{where}: segmentation must be polygons [[x, y, x, y, ...], ...] or an RLE object"
            )
        if any(abs(value) > FAR * max(width, height) for value in polygon):
            raise UserError(f"{where}: segmentation goes far outside the image of {width} x {height} pixels")
    # Fewer than three points are no area; some annotation tools leave such crumbs beside the real outline.
    return [polygon for polygon in polygons if len(polygon) >= 6] or None


def _require_boxes(scenes: list[Scene], path: Path) -> None:
    if not any(not thing.crowd for scene in scenes for thing in scene.objects):
        raise UserError(
            f"{path}: no usable box (crowds and boxes without area do not count): nothing to learn or measure"
        )


def _hashable(value: Any, where: str) -> Any:
    if not _is_whole(value):
        raise UserError(f"{where} must be a whole number, got {value!r}")
    return value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    # A whole number beyond what a float holds is as wrong as infinity (and makes math.isfinite raise).
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
