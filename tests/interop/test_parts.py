"""What is exported is what was trained; and what a detector without a box head has of a trunk."""

from __future__ import annotations

import pytest
import torch

import mcl
from mcl.detect.base import DetectorPlan
from mcl.detect.registry import build_detector, settings_of
from mcl.detect.saved import save_detector
from mcl.errors import UserError
from mcl.nn.parts import pieces_in, pieces_of
from mcl.nn.trunk import TrunkSpec, read_trunk, save_trunk

from .conftest import make_trunk, randomise

SOME = ("backbone", "p5", "head")


@pytest.fixture(scope="module")
def some(tmp_path_factory):
    """A trunk of which P2 to P4 were never trained."""
    path = tmp_path_factory.mktemp("some") / "trunk.safetensors"
    save_trunk(path, make_trunk("resnet18", 32), {"method": "mcl", "trained": SOME})
    return path


@pytest.fixture(scope="module", params=[("retinanet", "p2-p5"), ("fcos", "p3-p7")], ids=["retinanet", "fcos"])
def dense(request, tmp_path_factory):
    """(run folder of a detector that finds something, pieces of a trunk that it has)."""
    name, levels = request.param
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(name)
    settings = settings_of(name)(levels=levels, score_threshold=0.05)
    plan = DetectorPlan(TrunkSpec("resnet18", 16, 2, 64), ("a", "b"), settings, 64)
    detector = randomise(build_detector(plan))
    torch.nn.init.normal_(detector.head.classification_head.cls_logits.weight, std=0.1)
    torch.nn.init.zeros_(detector.head.classification_head.cls_logits.bias)
    torch.nn.init.normal_(detector.head.regression_head.bbox_reg.weight, std=0.05)
    save_detector(folder / "detector.safetensors", detector, plan, {"trunk": "none"})
    first = 2 if levels == "p2-p5" else 3
    return folder, ("backbone", *(f"p{level}" for level in range(first, 6)))


@pytest.mark.parametrize("to", ["torchvision", "detectron2", "safetensors"])
def test_what_was_trained_is_exported(some, to, tmp_path):
    out = tmp_path / {"safetensors": "t.safetensors", "detectron2": "t.pkl"}.get(to, "t.pth")
    done = mcl.export(trunk=some, to=to, out=out)
    assert done["parts"] == "backbone+p5+head"
    if to == "torchvision":
        assert pieces_in(torch.load(out, weights_only=True)) == SOME
        assert set(done["differences"]) == {"c2", "c3", "c4", "c5", "p5", "head"}
    if to == "safetensors":
        _, state, metadata = read_trunk(out)
        assert pieces_in(state) == SOME == tuple(metadata["trained"])


def test_more_than_was_trained_is_refused(some, tmp_path):
    with pytest.raises(UserError, match="trained.*backbone.p5.head.*leave --parts away") as error:
        mcl.export(trunk=some, to="safetensors", out=tmp_path / "t.safetensors", parts="backbone+pyramid")
    assert "p2" in str(error.value) and "\n" not in str(error.value) and not list(tmp_path.iterdir())
    done = mcl.export(trunk=some, to="safetensors", out=tmp_path / "t.safetensors", parts="backbone")
    assert done["parts"] == "backbone" and read_trunk(tmp_path / "t.safetensors")[2]["trained"] == ["backbone"]


def test_the_trunk_inside_a_detector_without_box_head(dense, tmp_path):
    folder, pieces = dense
    done = mcl.export(trunk=folder, to="safetensors", out=tmp_path / "t.safetensors")
    _, state, metadata = read_trunk(tmp_path / "t.safetensors")
    assert pieces_of(done["parts"]) == pieces_in(state) == tuple(metadata["trained"]) == pieces
    with pytest.raises(UserError, match="head"):
        mcl.export(trunk=folder, to="safetensors", out=tmp_path / "u.safetensors", parts="backbone+pyramid+head")


def test_a_detector_without_box_head_as_a_whole(dense, tmp_path):
    pytest.importorskip("onnxruntime")
    done = mcl.export(trunk=dense[0], to="onnx", out=tmp_path / "d.onnx")
    assert set(done["differences"]) == {"boxes", "labels", "scores"} and done["differences"]["boxes"] < 1e-2
    with pytest.raises(UserError, match="--to torchvision.*--to onnx") as error:
        mcl.export(trunk=dense[0], to="torchvision", out=tmp_path / "d.pth", **{"with": "detector"})
    assert "\n" not in str(error.value) and not (tmp_path / "d.pth").exists()
