"""A detector used from Python, from its own file and from an ONNX file."""

import numpy as np
import pytest
import torch
from PIL import Image

import mcl
from mcl.config.base import from_values
from mcl.config.export import ExportSettings
from mcl.data.labels.coco_json import read_coco
from mcl.data.labels.scenes import CocoDetection, Framing
from mcl.detect.base import DetectorPlan
from mcl.detect.evaluate import predict
from mcl.detect.registry import build_detector, settings_of
from mcl.detect.saved import load_detector, save_detector
from mcl.errors import UserError
from mcl.run.export import export

from .conftest import NAMES, QUICK, SPEC


def save(path, **given):
    torch.manual_seed(0)
    few = {"proposals_test": 20, "pre_nms_test": 40, "detections_per_image": 10, "score_threshold": 0.0}
    settings = settings_of("mask-rcnn")(**{**QUICK["mask-rcnn"], **few, **given})
    plan = DetectorPlan(SPEC, tuple(NAMES), settings, 64)
    save_detector(path, build_detector(plan).eval(), plan, {})
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return save(tmp_path_factory.mktemp("detector") / "detector.safetensors")


@pytest.fixture(scope="module")
def onnx_file(file):
    out = file.with_name("detector.onnx")
    export(from_values(ExportSettings, {"trunk": file, "to": "onnx", "out": out}))
    return out


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """Larger than the detector's 64 px, and not square."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    small = np.random.default_rng(0).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(small).resize((160, 120), Image.Resampling.BICUBIC).save(path)
    return path


def assert_same(one, other, rtol=0.0, atol=0.0):
    assert len(one) == len(other) > 0 and one.names == other.names
    torch.testing.assert_close(one.boxes, other.boxes, rtol=rtol, atol=atol)
    torch.testing.assert_close(one.scores, other.scores, rtol=rtol, atol=atol)


def test_every_form_of_an_image_gives_the_same(file, photo):
    detector = mcl.load_detector(file)
    found = detector(photo)
    assert found.boxes.shape == (len(found), 4) and found.masks.shape == (len(found), 120, 160) and found.masks.dtype == torch.bool
    assert found.names == [detector.names[label] for label in found.labels] and set(found.names) <= set(NAMES)
    assert float(found.boxes[:, 0::2].max()) <= 160 and float(found.boxes[:, 1::2].max()) <= 120
    image = Image.open(photo)
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    for form in (str(photo), image, image.convert("RGBA"), array, tensor, tensor.float() / 255):
        assert_same(found, detector(form))


def test_one_or_many(file, photo):
    detector = mcl.load_detector(file, batch=2)
    found, turned = detector(photo), Image.open(photo).rotate(90, expand=True)
    many = detector([photo, turned, photo])
    assert len(many) == 3
    assert_same(found, many[0], rtol=1e-4, atol=1e-3)  # sums of a batch of two are made in another order
    assert_same(found, many[2])
    assert_same(many[1], detector(turned), rtol=1e-4, atol=1e-3)
    array = np.asarray(Image.open(photo))
    assert [len(each) for each in detector(np.stack([array, array]))] == [len(found)] * 2
    assert detector([]) == []
    grey = np.asarray(Image.open(photo).convert("L"))
    assert_same(detector(grey), detector(Image.fromarray(grey)))


def test_detections_are_those_that_ap_is_measured_on(file, toy):
    scenes = read_coco(toy / "val.json", toy)
    detector, plan = load_detector(file)
    still = CocoDetection(scenes, plan.names, Framing(64), masks=False)
    results = predict(detector, still, list(plan.names), 1, 0, torch.device("cpu"))["bbox"]
    each = mcl.load_detector(file, batch=1)([scene.path for scene in scenes.scenes])
    boxes = torch.cat([found.boxes for found in each])
    expected = torch.tensor([result["bbox"] for result in results])
    torch.testing.assert_close(boxes[:, :2], expected[:, :2], rtol=0, atol=1e-3)
    assert [round(s, 5) for found in each for s in found.scores.tolist()] == [result["score"] for result in results]


def test_score_threshold(file, photo):
    scores = mcl.load_detector(file)(photo).scores
    middle = float(scores.median())
    assert mcl.load_detector(file, score_threshold=middle - 1e-6)(photo).scores.tolist() == [s for s in scores.tolist() if s >= middle - 1e-6]


def test_an_onnx_file_finds_the_same(file, onnx_file, photo):
    ours, theirs = mcl.load_detector(file), mcl.load_detector(onnx_file)
    assert theirs.names == ours.names == tuple(NAMES)
    one, other = ours(photo), theirs(photo)
    assert_same(one, other, rtol=1e-3, atol=1e-2)
    # Ours draws masks at the image's size, the file at the network's: they differ along the edges.
    assert (one.masks == other.masks).float().mean() > 0.9 and other.masks.shape == one.masks.shape
    middle = float(one.scores.median())
    assert (mcl.load_detector(onnx_file, score_threshold=middle)(photo).scores >= middle).all()


@pytest.mark.parametrize(
    "image, words",
    [
        (np.zeros((8, 8, 4), np.uint8), r"image 0: ndarray of uint8 and shape \(8, 8, 4\)"),
        (np.zeros((8, 8, 3)), "float64"),
        (torch.full((3, 8, 8), 200.0), "0..1"),
        (7, "int; give a path"),
        ("gone.png", "gone.png: file is missing"),
    ],
)
def test_what_is_no_image_is_told(file, image, words):
    with pytest.raises(UserError, match=words):
        mcl.load_detector(file)([image])


def test_what_is_no_detector_is_told(tmp_path):
    for name, words in (("none", "finished mcl finetune"), ("none.onnx", "no such file"), ("bad.onnx", "cannot read it")):
        (tmp_path / "bad.onnx").write_bytes(b"nonsense")
        with pytest.raises(UserError, match=words):
            mcl.load_detector(tmp_path / name)
