"""YOLO: data.yaml, pictures under images/, and a text file each under labels/ with a line an object."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import yaml

from mcl.data.labels.contract import Labels, Place, read_text
from mcl.data.loading.decode import UnreadableImage, picture_size
from mcl.data.sources.pictures import has_picture_suffix
from mcl.errors import UserError, did_you_mean

BEYOND = 0.01  # of the image: rounding may put a box's end this far outside
LINE = "a line is 'class x y width height' or 'class x1 y1 x2 y2 x3 y3 ...', all but the class as fractions of the image"


def recognise(path: Path) -> bool:
    """Whether a path is a YAML file, or a folder with data.yaml in it."""
    return path.suffix in (".yaml", ".yml") or (path / "data.yaml").is_file()


def read(place: Place) -> Labels:
    """Boxes and outlines of one part of the set; a picture without label file shows nothing.

    Raises:
        UserError: a key, file or line that is wrong; with file and line.
    """
    file = place.path / "data.yaml" if place.path.is_dir() else place.path
    content = _settings(file)
    names = _class_names(content, file)
    pictures = _pictures(content, place, file)
    root = Path(os.path.commonpath([picture.parent for picture in pictures]))
    images, annotations = [], []
    doubles = unlabelled = 0
    for number, picture in enumerate(pictures, start=1):
        with place.problems.entry():
            labels = label_file(picture)
            lines = _lines(labels)
            unlabelled += lines is None
            image = {"id": number, "file_name": picture.relative_to(root).as_posix()}
            image["width"], image["height"] = _size(picture)
            images.append(image)
            kept = dict.fromkeys(text for _, text in lines or ())
            doubles += len(lines or ()) - len(kept)
            first = {text: line for line, text in reversed(lines or ())}
            for text in kept:
                with place.problems.entry():
                    where = f"{labels}:{first[text]}"
                    annotations.append(_annotation(text, image, names, where))
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    return Labels(file, root, _content(images, annotations, names, file), _notes(file, doubles, unlabelled))


def label_file(picture: Path) -> Path:
    """The label file of a picture: the last folder called ``images`` becomes ``labels``."""
    parts = list(picture.parts)
    for position in range(len(parts) - 2, -1, -1):
        if parts[position] == "images":
            parts[position] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _settings(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(read_text(file, "give a YOLO data.yaml"))
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: not a YOLO data.yaml: expected 'names:', 'train:' and 'val:'")
    return content


def _class_names(content: dict[str, Any], file: Path) -> dict[int, str]:
    given = content.get("names")
    names = dict(enumerate(given)) if isinstance(given, list) else given
    if not isinstance(names, dict) or not names or not all(type(key) is int and key >= 0 for key in names):
        raise UserError(f"{file}: no 'names': a list of class names, or 'number: name' lines from 0")
    names = {key: str(name) for key, name in sorted(names.items())}
    if len(set(names.values())) < len(names):
        twice = next(name for name in names.values() if list(names.values()).count(name) > 1)
        raise UserError(f"{file}: names: {twice!r} is given twice; names must be unique")
    if isinstance(content.get("nc"), int) and content["nc"] != len(names):
        raise UserError(f"{file}: nc is {content['nc']}, but there are {len(names)} names; mend one of them")
    return names


def _pictures(content: dict[str, Any], place: Place, file: Path) -> list[Path]:
    """All pictures of the part that is asked for, in the order of its sources, each sorted."""
    part = place.split or place.role
    known = [key for key in ("train", "val", "test") if content.get(key)]
    if part not in known:
        raise UserError(f"{file}: no {part!r}{did_you_mean(part, known)}; it has: {', '.join(known) or 'none'}")
    sources = content[part] if isinstance(content[part], list) else [content[part]]
    if not all(isinstance(source, str) and source and "\0" not in source for source in sources):
        raise UserError(f"{file}: {part}: expected a folder or .txt file, or a list of them, got {content[part]!r}")
    base = place.images or file.parent / str(content.get("path") or "")
    pictures = [picture for source in sources for picture in _of_source(_found(base, source), base, f"{file}: {part}")]
    if not pictures:
        raise UserError(f"{file}: {part}: no picture in {', '.join(map(str, sources))}")
    return list(dict.fromkeys(pictures))


def _found(base: Path, source: str) -> Path:
    """The source below the base; tools that write ``../train/images`` mean it from the YAML's own folder."""
    path = Path(os.path.normpath(base / source))
    inside = Path(os.path.normpath(base / source.removeprefix("../")))
    return inside if not path.exists() and inside.exists() else path


def _of_source(source: Path, base: Path, where: str) -> list[Path]:
    if source.suffix == ".txt":
        lines = [line.strip() for line in read_text(source, f"it is named in {where}").splitlines()]
        return [Path(os.path.normpath((source.parent if line.startswith("./") else base) / line)) for line in lines if line]
    if not source.is_dir():
        raise UserError(f"{where}: no folder {source}; paths start from 'path', or from the YAML's own folder")
    return sorted(
        Path(folder) / name
        for folder, folders, names in os.walk(source)
        for name in names
        if has_picture_suffix(name)
    )


def _lines(labels: Path) -> list[tuple[int, str]] | None:
    """(number, text) of every line that is not empty; None without a file."""
    if not labels.exists():
        return None
    text = read_text(labels, LINE)
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def _size(picture: Path) -> tuple[int, int]:
    try:
        return picture_size(picture)
    except UnreadableImage as error:
        raise UserError(f"{picture}: {error}; mend the file or take it out") from None


def _annotation(text: str, image: dict[str, Any], names: dict[int, str], where: str) -> dict[str, Any]:
    """One line, in pixels."""
    try:
        values = [float(word) for word in text.split()]
    except ValueError:
        raise UserError(f"{where}: {text[:60]!r} are not numbers; {LINE}") from None
    if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
        raise UserError(f"{where}: {len(values)} numbers; {LINE}")
    label, *place = values
    if label not in names:
        raise UserError(f"{where}: class {label:g} is not among the names 0..{max(names)} of data.yaml")
    if wrong := [v for v in place if not math.isfinite(v) or not -BEYOND <= v <= 1 + BEYOND]:
        raise UserError(f"{where}: {wrong[0]:g} is no fraction of the image (0..1); divide pixels by width or height")
    width, height = image["width"], image["height"]
    found = {"image_id": image["id"], "category_id": int(label) + 1, "iscrowd": 0, "where": where}
    if len(place) == 4:
        x, y, w, h = place
        return found | {"bbox": [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]}
    xs = [min(max(x, 0.0), 1.0) * width for x in place[0::2]]
    ys = [min(max(y, 0.0), 1.0) * height for y in place[1::2]]
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    return found | {
        "bbox": box, "area": polygon_area(xs, ys), "segmentation": [[v for point in zip(xs, ys, strict=True) for v in point]],
    }  # fmt: skip


def polygon_area(xs: list[float], ys: list[float]) -> float:
    """Of a polygon that does not cross itself (the shoelace formula), in square pixels."""
    pairs = zip(xs, ys, xs[1:] + xs[:1], ys[1:] + ys[:1], strict=True)
    return abs(sum(x1 * y2 - x2 * y1 for x1, y1, x2, y2 in pairs)) / 2


def _content(images: list, annotations: list, names: dict[int, str], file: Path) -> dict[str, Any]:
    if not annotations:
        raise UserError(
            f"{file}: no object in {len(images)} images; labels lie beside them, with 'images' in the path as 'labels' "
            f"(the first: {label_file(Path(images[0]['file_name'])) if images else 'none'})"
        )
    categories = [{"id": number + 1, "name": name} for number, name in names.items()]
    return {"images": images, "annotations": annotations, "categories": categories, "measured_as": "coco"}


def _notes(file: Path, doubles: int, unlabelled: int) -> list[str]:
    notes = []
    if doubles:
        notes.append(f"{file.name}: {doubles} lines stand twice in their file: each is taken once")
    if unlabelled:
        notes.append(f"{file.name}: {unlabelled} images have no label file: taken as background")
    return notes
