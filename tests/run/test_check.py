"""``mcl data check``: the census of a set, all that is wrong with it, and what it suggests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from layouts import KINDS, write
from mcl.cli import main
from mcl.data.labels.census import suggested_size
from mcl.data.labels.formats import read_labels


def check(given: list[str], *more: str) -> int:
    return main(["data", "check", "--labels", *given, *more])


def coco(folder: Path, change=lambda content: None, count: int = 6) -> list[str]:
    layout = write("coco", folder, "train", count, seed=1)
    content = json.loads(Path(layout.given).read_text())
    change(content)
    Path(layout.given).write_text(json.dumps(content))
    return [layout.given, *(["--images", str(layout.images)] if layout.images else [])]


@pytest.mark.parametrize("kind", KINDS)
def test_counts_of_every_format(kind, tmp_path, capsys):
    layout = write(kind, tmp_path, "train", 6, seed=1)
    given = [layout.given, *(["--images", str(layout.images)] if layout.images else [])]
    assert check(given, "--out", str(tmp_path / "look")) == 0
    said = capsys.readouterr().out
    # The picture without an object has no txt file, which YOLO allows.
    assert ("1 problem:" if kind == "yolo" else "nothing wrong found") in said and "6 images, 1 without an object; 64 x 48 pixels" in said
    numbers = json.loads((tmp_path / "look/check.json").read_text())
    scenes = read_labels(layout.given, layout.images)
    boxes = {name: sum(t.category == i for s in scenes.scenes for t in s.objects) for i, name in scenes.categories.items()}
    assert {found["name"]: found["boxes"] for found in numbers["classes"]} == boxes
    assert all(found["small"] + found["medium"] + found["large"] == found["boxes"] for found in numbers["classes"])
    assert numbers["boxes"] == sum(boxes.values()) and numbers["image_size"] == 64
    with Image.open(tmp_path / "look/labels.png") as figure:
        assert len(figure.convert("RGB").getcolors(2**24)) > 100


def test_all_that_is_wrong_is_listed(tmp_path, capsys):
    def spoil(content):
        content["annotations"][0]["bbox"] = [1, 2, "x", 4]
        content["annotations"][1]["category_id"] = 99
        content["images"][1]["width"] = 80
        content["images"][2]["file_name"] = "gone.jpg"

    assert check(coco(tmp_path, spoil)) == 0
    said = capsys.readouterr().out
    assert "4 problems:" in said
    for words in ("annotation 1: bbox must be", "category_id 99", "gone.jpg", "says 80 x 48"):
        assert words in said


def test_crowds_are_not_boxes(tmp_path, capsys):
    def crowd(content):
        for thing in content["annotations"][:2]:
            thing["iscrowd"] = 1

    given = coco(tmp_path, crowd)
    total = len(json.loads(Path(given[0]).read_text())["annotations"])
    assert check(given) == 0
    assert f"{total - 2} objects" in (said := capsys.readouterr().out) and "2 crowds" in said


def test_anchors_are_suggested_for_what_is_tiny_or_tall(tmp_path, capsys):
    def shrink(content):
        for thing in content["annotations"]:
            thing["bbox"][2:] = [2, 12]
            thing.pop("segmentation", None)

    assert check(coco(tmp_path, shrink)) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "--detector.anchor_base 4" in said and "--detector.aspect_ratios" in said


@pytest.mark.parametrize(("side", "longest", "size"), [(0.1, 640, 160), (0.01, 640, 640), (0.5, 640, 64), (0.01, 9000, 1344), (0.03, 1000, 544)])
def test_suggested_sizes(side, longest, size):
    assert suggested_size(side, longest) == size


@pytest.mark.parametrize(
    ("labels", "more", "words"),
    [
        ("none.json", [], "No such file"),
        ("[]", [], "expected an object"),
        ("", ["--out", "/proc/x"], "cannot be written"),
        ("", ["--out", "."], "is there already"),
    ],
)
def test_mistakes_are_one_line(labels, more, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = coco(tmp_path)
    if labels == "[]":
        Path(given[0]).write_text(labels)
    elif labels:
        given = [labels]
    (tmp_path / "labels.png").write_text("mine")
    assert check(given, *more) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and (tmp_path / "labels.png").read_text() == "mine"
