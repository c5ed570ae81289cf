"""The embedded demo set: classes, split, determinism."""

import json
from importlib import util

import numpy as np
import pytest
from faster_coco_eval import COCO
from PIL import Image

from mcl.config.base import from_values
from mcl.config.data import DataDemoSettings
from mcl.errors import UserError
from mcl.run.data import data_demo
from mcl.sets.demo import PHOTOS
from mcl.sets.silhouettes import SILHOUETTES, silhouette

SMALL = {
    "unlabeled_objects": 8,
    "unlabeled_scenes": 4,
    "train_scenes": 16,
    "test_scenes": 8,
    "cutouts_per_class": 4,
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "set"
    return out, data_demo(from_values(DataDemoSettings, SMALL | {"out": out}))


def test_demo_set(demo):
    out, summary = demo
    assert summary["classes"] == ["disk", "square", "triangle", "star", "cross", "crescent"]
    assert summary["unlabeled"] == 12 and summary["train_annotations"] >= 16
    coco = COCO(str(out / "train.json"))
    assert len(coco.dataset["images"]) == 16
    assert all(coco.annToMask(a).sum() == a["area"] for a in coco.dataset["annotations"])
    assert Image.open(out / "images/test/000007.jpg").size == (128, 128)


def test_photos_of_train_and_test_differ(demo):
    out, _ = demo
    assert not set(PHOTOS["train"]) & set(PHOTOS["test"])
    for split in ("train", "test"):
        data = json.loads((out / f"{split}.json").read_text())
        assert {image["background"] for image in data["images"]} <= set(PHOTOS[split])
        textures = {annotation["source"].partition("(")[2][:-1] for annotation in data["annotations"]}
        assert textures <= set(PHOTOS[split])


def test_same_seed_same_bytes(demo, tmp_path):
    out, _ = demo
    data_demo(from_values(DataDemoSettings, SMALL | {"out": tmp_path / "again"}))
    for path in out.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "again" / path.relative_to(out)).read_bytes(), path


@pytest.mark.parametrize("name", SILHOUETTES)
def test_silhouettes_vary_and_stay_in_one_piece(name):
    from skimage.measure import label

    masks = [np.asarray(silhouette(name, 96, 0.06, np.random.default_rng(i))) for i in range(6)]
    for mask in masks:
        assert mask.shape == (96, 96) and 0.1 < (mask >= 128).mean() < 0.85
        assert label(mask >= 128).max() == 1
        assert mask[0].max() == mask[-1].max() == mask[:, 0].max() == mask[:, -1].max() == 0
    assert any((masks[0] != mask).any() for mask in masks[1:])


def test_without_scikit_image(monkeypatch, tmp_path):
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'mcl\[demo\]'"):
        data_demo(from_values(DataDemoSettings, {"out": tmp_path / "out"}))
