"""Tree tiles: from a small imitation of deepforest's data folder, and from a wheel of it."""

import subprocess
import zipfile
from importlib import util
from types import SimpleNamespace

import numpy as np
import pytest
from faster_coco_eval import COCO
from PIL import Image

from mcl.config.base import from_values
from mcl.config.data import DataTreesSettings
from mcl.errors import UserError
from mcl.run.data import data_trees
from mcl.sets.trees import clip_box, corners

TRAIN, TEST = "2019_YELL_2_528000_x.png", "2019_YELL_2_541000_y.png"
BOXES = {  # tiles of 64 px: the second box lies half in two tiles, the third mostly in one
    TRAIN: [("Tree", 5, 5, 25, 35), ("Tree", 54, 70, 74, 90), ("Tree", 60, 20, 90, 40)],
    TEST: [("Tree", 10, 10, 50, 50), ("Bush", 70, 10, 100, 40)],
    "other.tif": [("Dead", 0, 0, 9, 9)],
}


def voc(boxes):
    objects = "".join(
        f"<object><name>{n}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin>"
        f"<xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for n, a, b, c, d in boxes
    )
    return f"<annotation>{objects}</annotation>"


@pytest.fixture
def package(tmp_path):
    data = tmp_path / "deepforest/data"
    data.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in (
        (TRAIN, (140, 130)),
        (TEST, (128, 64)),
        ("other.tif", (64, 64)),
        ("other.png", (64, 64)),
        ("plain.jpg", (64, 80)),
    ):
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(data / name)
    for name, boxes in BOXES.items():
        (data / name).with_suffix(".xml").write_text(voc(boxes))
    (data / "classes.csv").write_text("Dead,0\n")
    return data.parent


def run(package, out, **changes):
    values = {"package": package, "out": out, "tile": 64, "stride": 64, "unlabeled_stride": 16}
    return data_trees(from_values(DataTreesSettings, values | changes))


def test_tiles_and_boxes(package, tmp_path):
    out = tmp_path / "out"
    summary = run(package, out)
    # Box 1 in tile (0, 0); box 2 is half in each of (0, 64) and (64, 64); box 3 in (64, 0).
    assert (summary["train_images"], summary["train_annotations"]) == (4, 4)
    assert (summary["test_images"], summary["test_annotations"]) == (1, 1), (
        "a class unknown to training is left out"
    )
    # 140x130 at stride 16: 5x5; other: 1 (in two formats); 64x80: 2. Never the test photo.
    assert summary["unlabeled"] == len(list((out / "unlabeled/tiles").iterdir())) == 28
    assert TEST not in summary["photos"]["unlabeled"]
    coco = COCO(str(out / "train.json"))
    assert coco.dataset["categories"] == [{"id": 1, "name": "Tree", "supercategory": ""}]
    assert all("segmentation" not in a for a in coco.dataset["annotations"])
    first = coco.dataset["annotations"][0]
    assert first["bbox"] == [5.0, 5.0, 20.0, 30.0] and first["area"] == 600
    photo = np.asarray(Image.open(package / "data" / TRAIN))
    for image in coco.dataset["images"]:
        tile = np.asarray(Image.open(out / image["file_name"]))
        left, top = image["left"], image["top"]
        assert image["photo"] == TRAIN and (tile == photo[top : top + 64, left : left + 64]).all()


def test_validation_strip(package, tmp_path):
    """The right of the training photo: its tiles are in val.json only, not even unlabeled."""
    summary = run(package, tmp_path / "out", val_fraction=0.5, train_photos=[TRAIN], keep_empty=True)
    assert (summary["train_images"], summary["val_images"], summary["test_images"]) == (2, 2, 2)
    left = {
        split: {image["left"] for image in COCO(str(tmp_path / f"out/{split}.json")).dataset["images"]}
        for split in ("train", "val")
    }
    assert left == {"train": {0}, "val": {70}}
    # 70x130 of the training photo at stride 16: 1x5; the others as they are.
    assert summary["unlabeled"] == 5 + 3 and "tune on" in summary["message"]
    with pytest.raises(UserError, match="leaves no val tile"):
        run(package, tmp_path / "none", val_fraction=0.1)


def test_wheel_and_its_settings(package, tmp_path):
    wheel = tmp_path / "deepforest-2.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in (package / "data").iterdir():
            archive.write(path, f"deepforest/data/{path.name}")
    summary = run(wheel, tmp_path / "out", keep_empty=True, min_visible=0.6)
    assert (summary["train_images"], summary["train_annotations"]) == (4, 2)
    assert summary["test_images"] == 2


def test_corners_and_clipping():
    assert list(corners((100, 70), 50, 25)) == [(0, 0), (25, 0), (50, 0)]
    assert list(corners((40, 70), 50, 25)) == []
    assert clip_box((-10, 0, 10, 20), 0, 0, 64, 0.5) == (0, 0, 10, 20)
    assert clip_box((-11, 0, 9, 20), 0, 0, 64, 0.5) is None
    assert clip_box((61, 0, 64, 20), 0, 0, 64, 0.5) is None, "too thin"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_photos": ["zzz"]}, "matches no annotated photo; there are: 2019"),
        ({"test_photos": ["2019*"]}, "is in both"),
        ({"tile": 128}, "leaves no (train|test) tile"),
    ],
)
def test_bad_settings(package, tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        run(package, tmp_path / "out", **changes)
    assert not (tmp_path / "out/train.json").exists()


def test_bad_package(package, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        run(tmp_path / "nowhere", tmp_path / "out")
    (package / "data/other.xml").write_text("<annotation>")
    with pytest.raises(UserError, match="other.xml: not a Pascal VOC"):
        run(package, tmp_path / "out")
    for path in (package / "data").glob("*.xml"):
        path.unlink()
    with pytest.raises(UserError, match="no photo with an .xml"):
        run(package, tmp_path / "out")
    with pytest.raises(UserError, match="not a wheel"):
        run(package / "data/plain.jpg", tmp_path / "out")


def test_download_that_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    monkeypatch.setattr(
        subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1, stderr="x\nERROR: no network\n")
    )
    with pytest.raises(UserError, match=r"failed \(ERROR: no network\).*--package FILE.whl"):
        run(None, tmp_path / "out")
