"""``mcl predict``."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import mcl
from mcl.data.labels.coco_json import read_coco
from mcl.data.sources.video import Video, VideoFile
from mcl.detect.base import DetectorPlan
from mcl.detect.registry import build_detector, settings_of
from mcl.detect.saved import save_detector
from mcl.errors import UserError
from mcl.nn.trunk import TrunkSpec


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    few = {"fc_channels": 32, "proposals_test": 20, "pre_nms_test": 40, "detections_per_image": 5, "score_threshold": 0.9}
    spec = TrunkSpec("test_resnet", pyramid_channels=16, head_convs=1, image_size=64)
    plan = DetectorPlan(spec, ("cat", "dog"), settings_of("mask-rcnn")(**few), 64)
    folder = tmp_path_factory.mktemp("run")
    save_detector(folder / "detector.safetensors", build_detector(plan).eval(), plan, {})
    return folder


def image(seed: int, size=(80, 60)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "deep").mkdir()
    for i, name in enumerate(("a.png", "a.jpg", "deep/b.png")):
        image(i).save(folder / name)
    (folder / "bad.jpg").write_text("no picture")
    return folder


def predict(model, source, out, **given):
    return mcl.predict(model=model, images=str(source), out=out, **{"score_threshold": 0.0, "batch": 2, "workers": 0, **given})


def test_a_folder(model, pictures, tmp_path):
    summary = predict(model, pictures, tmp_path / "out", workers=1)
    content = json.loads((tmp_path / "out/predictions.json").read_text())
    assert [entry["file_name"] for entry in content["images"]] == ["a.jpg", "a.png", "deep/b.png"]
    assert summary["images"] == 3 and summary["detections"] == len(content["annotations"]) > 3
    assert sum(summary["classes"].values()) == summary["detections"]
    assert [entry["file"] for entry in summary["unreadable"]] == ["bad.jpg"] and "1 could not be read" in summary["message"]
    drawn = sorted(str(path.relative_to(tmp_path / "out/pictures")) for path in (tmp_path / "out/pictures").rglob("*.jpg"))
    assert drawn == ["a.jpg", "a.png.jpg", "deep/b.jpg"]
    with Image.open(tmp_path / "out/pictures/a.jpg") as picture:
        assert picture.size == (480, 360)  # enlarged, so that texts can be read
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        assert 0 <= annotation["score"] <= 1 and annotation["category_id"] in (1, 2) and x + w <= 80.01 and y + h <= 60.01
    assert any("segmentation" in annotation for annotation in content["annotations"])
    # A COCO data set that our own reader takes: to be corrected by hand, say.
    assert len(read_coco(tmp_path / "out/predictions.json", pictures).scenes) == 3


def test_the_same_as_from_python(model, pictures, tmp_path):
    predict(model, pictures / "a.png", tmp_path / "out", pictures=False)
    content = json.loads((tmp_path / "out/predictions.json").read_text())
    found = mcl.load_detector(model, score_threshold=0.0)(pictures / "a.png")
    assert [entry["score"] for entry in content["annotations"]] == [round(score, 5) for score in found.scores.tolist()]
    assert content["categories"][0]["name"] == "cat" and not (tmp_path / "out/pictures").exists()


def test_threshold(model, pictures, tmp_path):
    scores = mcl.load_detector(model, score_threshold=0.0)(pictures / "a.png").scores
    middle = float(scores.median())
    summary = predict(model, pictures / "a.png", tmp_path / "out", score_threshold=middle - 1e-6)
    assert summary["detections"] == int((scores >= middle - 1e-6).sum()) < len(scores)


def test_a_video(model, tmp_path):
    file = VideoFile(tmp_path / "walk.mp4", 5.0, (80, 60))
    for i in range(5):
        file.add(np.asarray(image(i)))
    file.close()
    summary = predict(model, tmp_path / "walk.mp4", tmp_path / "out")
    content = json.loads((tmp_path / "out/predictions.json").read_text())
    assert summary["images"] == 5
    assert [entry["file_name"] for entry in content["images"]] == [f"walk.mp4#{i:06d}" for i in range(5)]
    drawn = Video(tmp_path / "out/pictures.mp4")
    assert drawn.rate == 5 and [frame.shape for frame in drawn] == [(360, 480, 3)] * 5
    # Frames are what was written, but for the codec.
    first = next(iter(Video(tmp_path / "walk.mp4")))
    assert np.abs(first.astype(int) - np.asarray(image(0))).mean() < 12


def test_a_mistake_is_one_line(model, pictures, tmp_path, monkeypatch):
    (tmp_path / "only-bad").mkdir()
    (tmp_path / "only-bad/bad.png").write_text("no picture")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    cases = [
        (model / "gone", pictures, "--model .*finished mcl finetune"),
        (model, tmp_path / "gone", "--images .*no such file or folder"),
        (model, tmp_path / "only-bad", "nothing can be read; the first: bad.png"),
        (model, tmp_path / "broken.mp4", "--images .*OpenCV cannot read it as a video"),
    ]
    for detector, source, words in cases:
        with pytest.raises(UserError, match=words) as error:
            predict(detector, source, tmp_path / "out", overwrite=(tmp_path / "out").exists())
        assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="mcl\\[video\\]"):
        predict(model, tmp_path / "broken.mp4", tmp_path / "out2")
