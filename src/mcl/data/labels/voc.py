"""PASCAL VOC: a folder a year with Annotations/*.xml, JPEGImages/ and ImageSets/Main/SPLIT.txt.

A flat folder of XML files beside their pictures, as annotation tools write, is read too.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mcl.data.labels.contract import Labels, Place, read_text
from mcl.data.loading.decode import UnreadableImage, picture_size
from mcl.data.sources.pictures import has_picture_suffix, leads_out
from mcl.errors import UserError, did_you_mean

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
SIDES = ("xmin", "ymin", "xmax", "ymax")
SETS = Path("ImageSets/Main")
LARGEST = 2**24  # bytes of an XML file


def recognise(path: Path) -> bool:
    """Whether a path is an image set's list, a year's folder, or a folder of XML files."""
    if path.suffix == ".txt":
        return path.parent.parent.name == SETS.parent.name
    return path.is_dir() and ((path / "Annotations").is_dir() or _has_xml(path))


def read(place: Place) -> Labels:
    """VOC's boxes, as boxes from 0 with open ends: (xmin - 1, ymin - 1, xmax, ymax).

    Objects marked ``difficult`` are kept and marked.

    Raises:
        UserError: a missing list or file, or an XML file that is wrong; with file and object.
    """
    folder, names, listed = _listed(place)
    files = folder / "Annotations" if (folder / "Annotations").is_dir() else folder
    root = place.images or (folder / "JPEGImages" if files != folder else folder)
    pictures = _pictures(root, files)
    images: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for number, name in enumerate(names, start=1):
        with place.problems.entry():
            file = files / f"{name}.xml"
            top = _parse(file, listed)
            image = {"id": number, "file_name": pictures.get(name) or _file_name(top, name)}
            image["width"], image["height"] = _size(top, root / image["file_name"], file)
            images.append(image)
            for position, thing in enumerate(top.findall("object"), start=1):
                with place.problems.entry():
                    found.append(_annotation(thing, number, f"{file}: object {position}"))
    return Labels(listed, root, _content(images, found, listed))


def _listed(place: Place) -> tuple[Path, list[str], Path]:
    """The year's folder, names without suffix, and what tells which they are."""
    path = place.path
    if path.suffix == ".txt":
        return path.parents[2], _names(path), path
    sets = path / SETS
    if place.split is None and not sets.is_dir():
        files = path / "Annotations" if (path / "Annotations").is_dir() else path
        names = sorted(entry.name[:-4] for entry in os.scandir(files) if entry.name.endswith(".xml"))
        if not names:
            raise UserError(f"{files}: no XML file there")
        return path, names, path
    known = sorted(file.stem for file in sets.glob("*.txt") if "_" not in file.stem)
    if place.split is None:
        raise UserError(
            f"{path}: which image set? give one of them, such as {path}#{known[0] if known else 'trainval'} "
            f"(there are: {', '.join(known) or 'none'})"
        )
    listed = sets / f"{place.split}.txt"
    if not listed.is_file():
        raise UserError(
            f"{path}: no image set {place.split!r}{did_you_mean(place.split, known)}; {sets} has: {', '.join(known) or 'none'}"
        )
    return path, _names(listed), listed


def _names(listed: Path) -> list[str]:
    """Names in an image set's list; of a class's own list (``cat_train.txt``) those that show it."""
    names = []
    for number, line in enumerate(read_text(listed, "give ImageSets/Main/SPLIT.txt").splitlines(), start=1):
        words = line.split()
        if not words or (len(words) > 1 and words[1] == "-1"):
            continue
        if leads_out(words[0]) or "\0" in words[0]:
            raise UserError(f"{listed}:{number}: {words[0]!r} leads out of the folder; give names without suffix")
        names.append(words[0])
    if not names:
        raise UserError(f"{listed}: names no image; an image set has one name a line, without suffix")
    return names


def _pictures(root: Path, files: Path) -> dict[str, str]:
    """Name without suffix -> file name, of the pictures there; XML files are often moved and renamed with them."""
    if not root.is_dir():
        raise UserError(f"{files}: no folder {root} for its images; say where they are")
    return {
        entry.name.rpartition(".")[0]: entry.name for entry in os.scandir(root) if has_picture_suffix(entry.name)
    }


def _parse(file: Path, listed: Path) -> ElementTree.Element:
    try:
        if file.stat().st_size > LARGEST:
            raise UserError(f"{file}: {file.stat().st_size:,} bytes are no annotation of one image")
        content = file.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{file}: missing, and named in {listed}; take the name out, or put the file there") from None
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or error}") from None
    if b"<!ENTITY" in content:
        raise UserError(f"{file}: defines entities, which no VOC file does; it is not read")
    try:
        return ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise UserError(f"{file}: not valid XML: {error}; mend it or take it out of {listed}") from None


def _file_name(top: ElementTree.Element, name: str) -> str:
    """As the XML has it, where no picture is called like the XML; what is missing is told later."""
    return (top.findtext("filename") or "").strip() or f"{name}.jpg"


def _size(top: ElementTree.Element, picture: Path, file: Path) -> tuple[int, int]:
    """As the XML has it, else (many tools write 0, or nothing) as the picture's header has it."""
    sides = tuple(_number(top.find("size"), side) for side in ("width", "height"))
    if all(side is not None and side >= 1 and side == int(side) for side in sides):
        return int(sides[0]), int(sides[1])
    try:
        return picture_size(picture)
    except UnreadableImage as error:
        raise UserError(f"{file}: no size in it, and {picture}: {error}; write <size> or mend the image") from None


def _annotation(thing: ElementTree.Element, image: int, where: str) -> dict[str, Any]:
    name = (thing.findtext("name") or "").strip()
    if not name:
        raise UserError(f"{where} has no <name>")
    where = f"{where} ({name})"
    sides = {side: _number(thing.find("bndbox"), side) for side in SIDES}
    if wrong := [side for side, value in sides.items() if value is None]:
        raise UserError(f"{where}: bndbox has no number for {', '.join(wrong)}")
    x1, y1, x2, y2 = sides.values()
    if x2 < x1 or y2 < y1:
        raise UserError(f"{where}: xmin, ymin, xmax, ymax {x1:g}, {y1:g}, {x2:g}, {y2:g} are not in order; swap them")
    return {
        "image_id": image, "name": name, "bbox": [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1], "iscrowd": 0,
        "difficult": int((thing.findtext("difficult") or "0").strip() == "1"), "where": where,
    }  # fmt: skip


def _number(parent: ElementTree.Element | None, key: str) -> float | None:
    text = parent.findtext(key) if parent is not None else None
    try:
        value = float(text) if text is not None else None
    except ValueError:
        return None
    return value if value is not None and abs(value) < 1e9 else None


def _content(images: list[dict[str, Any]], found: list[dict[str, Any]], listed: Path) -> dict[str, Any]:
    """COCO's dictionary; VOC's 20 classes in their order where there is no other, else the names in order."""
    if not found:
        raise UserError(f"{listed}: no object in {len(images)} files: nothing to learn or measure")
    names = {thing["name"] for thing in found}
    classes = CLASSES if names <= set(CLASSES) else sorted(names)
    ids = {name: number for number, name in enumerate(classes, start=1)}
    for number, thing in enumerate(found, start=1):
        thing |= {"id": number, "category_id": ids[thing.pop("name")]}
    return {
        "images": images, "annotations": found, "measured_as": "voc",
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
    }  # fmt: skip


def _has_xml(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.name.endswith(".xml") for entry in entries)
