"""Tiny labelled sets in the layout of each label format: the same coloured rectangles, written five ways."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image, ImageDraw

CLASSES = {"person": "#ff4040", "car": "#00a6ff", "bicycle": "#33d17a"}  # VOC and Cityscapes have all three
KINDS = ("coco", "lvis", "voc", "cityscapes", "yolo")


@dataclass(frozen=True)
class Toy:
    """A picture: name without suffix, and (class, x1, y1, x2, y2) of its rectangles, which do not meet."""

    name: str
    things: tuple[tuple[str, int, int, int, int], ...]


@dataclass(frozen=True)
class Layout:
    """What to give as ``--train`` or ``--val``, and as ``--images`` (None: not needed)."""

    given: str
    images: Path | None = None


def toys(count: int, seed: int, width: int = 64, height: int = 48) -> list[Toy]:
    """Up to four rectangles in the quarters of a picture; the last picture shows nothing."""
    rng, names, found = np.random.default_rng(seed), list(CLASSES), []
    for number in range(count):
        things = []
        for quarter in range(4 if number < count - 1 else 0):
            if quarter and rng.random() < 0.4:
                continue
            left, top = quarter % 2 * width // 2, quarter // 2 * height // 2
            w, h = (int(rng.integers(side // 5, side // 2 - 2)) for side in (width, height))
            x, y = left + int(rng.integers(0, width // 2 - w)), top + int(rng.integers(0, height // 2 - h))
            things.append((names[int(rng.integers(3))], x, y, x + w, y + h))
        found.append(Toy(f"{seed:02}{number:04}", tuple(things)))
    return found


def write(kind: str, root: Path, part: str = "train", count: int = 4, seed: int = 1, size: tuple[int, int] = (64, 48)) -> Layout:
    """Write one part of a set; several parts of a set go to one root."""
    return globals()[f"_{kind}"](root, part, toys(count, seed, *size), size)


def _paint(path: Path, toy: Toy, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(int(toy.name))
    image = Image.fromarray(rng.integers(0, 90, (size[1], size[0], 3), dtype=np.uint8))
    for name, x1, y1, x2, y2 in toy.things:
        ImageDraw.Draw(image).rectangle((x1, y1, x2 - 1, y2 - 1), fill=CLASSES[name])
    image.save(path, quality=95)


def _coco_content(part: str, pictures: list[Toy], size: tuple[int, int]) -> dict:
    images, annotations = [], []
    for number, toy in enumerate(pictures, start=1):
        images.append({"id": number, "file_name": f"{part}2017/{toy.name}.jpg", "width": size[0], "height": size[1]})
        for name, x1, y1, x2, y2 in toy.things:
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": list(CLASSES).index(name) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0,
                "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
            })  # fmt: skip
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _coco(root: Path, part: str, pictures: list[Toy], size: tuple[int, int]) -> Layout:
    for toy in pictures:
        _paint(root / f"{part}2017" / f"{toy.name}.jpg", toy, size)
    file = root / "annotations" / f"instances_{part}2017.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(_coco_content(part, pictures, size)))
    return Layout(str(file), root)


def _lvis(root: Path, part: str, pictures: list[Toy], size: tuple[int, int]) -> Layout:
    layout = _coco(root, part, pictures, size)
    content = _coco_content(part, pictures, size)
    for image in content["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/{image.pop('file_name')}"
        own = {thing["category_id"] for thing in content["annotations"] if thing["image_id"] == image["id"]}
        image["neg_category_ids"] = sorted({1, 2, 3} - own)[:1]
        image["not_exhaustive_category_ids"] = sorted(own)[:1]
    for annotation in content["annotations"]:
        del annotation["iscrowd"]
    for category, frequency in zip(content["categories"], "rcf", strict=True):
        category |= {"frequency": frequency, "synset": f"{category['name']}.n.01", "image_count": 3}
    Path(layout.given).unlink()
    file = root / f"lvis_v1_{part}.json"
    file.write_text(json.dumps(content))
    return Layout(str(file), root)


def voc_xml(toy: Toy, size: tuple[int, int]) -> str:
    """A VOC annotation; the last object of a picture is marked difficult."""
    objects = "".join(
        f"<object><name>{name}</name><pose>Left</pose><truncated>0</truncated>"
        f"<difficult>{int(len(toy.things) > 1 and position == len(toy.things) - 1)}</difficult>"
        f"<bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>\n"
        for position, (name, x1, y1, x2, y2) in enumerate(toy.things)
    )
    return (
        f"<annotation><folder>VOC2007</folder><filename>{toy.name}.jpg</filename>"
        f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>\n{objects}</annotation>\n"
    )


def _voc(root: Path, part: str, pictures: list[Toy], size: tuple[int, int], year: str = "VOC2007") -> Layout:
    folder = root / year
    for sub in ("Annotations", "ImageSets/Main"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for toy in pictures:
        _paint(folder / "JPEGImages" / f"{toy.name}.jpg", toy, size)
        (folder / "Annotations" / f"{toy.name}.xml").write_text(voc_xml(toy, size))
    (folder / "ImageSets/Main" / f"{part}.txt").write_text("".join(f"{toy.name}\n" for toy in pictures))
    return Layout(f"{folder}#{part}")


def _cityscapes(root: Path, part: str, pictures: list[Toy], size: tuple[int, int]) -> Layout:
    city = "aachen" if part == "train" else "munster"
    for toy in pictures:
        name = f"{city}_{toy.name}_000019"
        _paint(root / "leftImg8bit" / part / city / f"{name}_leftImg8bit.png", toy, size)
        width, height = size
        objects = [
            {"label": "road", "polygon": [[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]]},
            {"label": "ego vehicle", "polygon": [[0, height - 1], [width - 1, height - 1], [width - 1, height - 1]]},
        ]
        for name_, x1, y1, x2, y2 in toy.things:
            corners = [[x1, y1], [x2 - 1, y1], [x2 - 1, y2 - 1], [x1, y2 - 1]]
            objects.append({"label": name_, "polygon": corners})
        file = root / "gtFine" / part / city / f"{name}_gtFine_polygons.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"imgHeight": height, "imgWidth": width, "objects": objects}))
    return Layout(f"{root}#{part}")


def _yolo(root: Path, part: str, pictures: list[Toy], size: tuple[int, int]) -> Layout:
    """Boxes in one picture, outlines in the next."""
    for number, toy in enumerate(pictures):
        _paint(root / "images" / part / f"{toy.name}.jpg", toy, size)
        lines = []
        for name, *box in toy.things:
            x1, y1, x2, y2 = (value / size[k % 2] for k, value in enumerate(box))
            place = (x1, y1, x2, y1, x2, y2, x1, y2) if number % 2 else ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
            lines.append(f"{list(CLASSES).index(name)} " + " ".join(f"{value:.8f}" for value in place))
        labels = root / "labels" / part / f"{toy.name}.txt"
        labels.parent.mkdir(parents=True, exist_ok=True)
        if lines:
            labels.write_text("\n".join(lines) + "\n")
    file = root / "data.yaml"
    content = yaml.safe_load(file.read_text()) if file.is_file() else {"path": ".", "names": dict(enumerate(CLASSES)), "nc": 3}
    file.write_text(yaml.safe_dump(content | {part: f"images/{part}"}))
    return Layout(str(file))
