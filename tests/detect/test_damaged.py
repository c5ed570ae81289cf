"""Crafted and damaged detectors, and a fine-tuned run as the start of another: one line, or the right weights."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mcl.config.base import from_values
from mcl.config.finetune import FinetuneSettings
from mcl.detect import saved
from mcl.detect.base import DetectorPlan
from mcl.detect.registry import build_detector, settings_of
from mcl.detect.saved import load_detector, save_detector
from mcl.errors import UserError
from mcl.nn.trunk import Trunk, save_trunk
from mcl.run.finetune import finetune

from .conftest import NAMES, QUICK, SPEC


@pytest.fixture
def file(tmp_path):
    plan = DetectorPlan(SPEC, tuple(NAMES), settings_of("mask-rcnn")(roi_size=3, **QUICK["mask-rcnn"]), 64)
    path = tmp_path / "run" / "detector.safetensors"
    path.parent.mkdir()
    save_detector(path, build_detector(plan), plan, {"trunk": "none"})
    return path


def rewrite(path, change_plan=None, change_state=None) -> None:
    with safe_open(path, "pt") as opened:
        metadata = {key: json.loads(value) for key, value in opened.metadata().items()}
    state = load_file(path)
    (change_plan or (lambda plan: None))(metadata["plan"])
    (change_state or (lambda state: None))(state)
    save_file(state, path, {key: json.dumps(value) for key, value in metadata.items()})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: p["spec"].update(head_convs=10**6), "head_convs 1000000, its tensors say 2"),
        (lambda p: p["spec"].update(pyramid_channels=-1), "pyramid_channels -1, its tensors say 16"),
        (lambda p: p["spec"].update(mean=[0.5]), "three numbers"),
        (lambda p: p.update(names=NAMES * 10**5), "of another shape (roi_heads.box_predictor"),
        (lambda p: p.update(names="dog"), "a list of texts"),
        (lambda p: p.update(names=[1, 2, 3]), "a list of texts"),
        (lambda p: p.update(image_size=10**9), "its image_size is 1000000000"),
        (lambda p: p.update(image_size="64"), "its image_size is '64'"),
        (lambda p: p.update(short_sides=[64, -1]), "its short_sides is -1"),
        (lambda p: p.update(short_sides=7), "plan is not one of mcl"),
        (lambda p: p.update(long_side=None), "its long_side is None"),
        (lambda p: p["settings"].update(fc_channels=64), "of another shape"),
        (lambda p: p["settings"].update(fc_channels=10**9), "fc_channels"),
        (lambda p: p["settings"].update(name=["x"]), "plan is not one of mcl"),
        (lambda p: p.update(settings=3), "plan is not one of mcl"),
        (lambda p: p.pop("spec"), "its plan is"),
    ],
)
def test_crafted_plans_build_nothing(change, says, file, monkeypatch):
    def built(plan):
        assert torch.get_default_device().type == "meta", "memory was spent on a network"
        return build_detector(plan)

    monkeypatch.setattr(saved, "build_detector", built)
    rewrite(file, change)
    with pytest.raises(UserError) as caught:
        load_detector(file)
    message = str(caught.value)
    assert says in message and str(file) in message and "\n" not in message and len(message) < 700, message


def test_weights_that_are_no_numbers(file):
    rewrite(file, change_state=lambda state: state["roi_heads.box_predictor.cls_score.bias"].fill_(float("nan")))
    with pytest.raises(UserError, match="1 of .* NaN or infinite .'roi_heads.box_predictor.cls_score.bias'"):
        load_detector(file)


@pytest.mark.parametrize("content", [b"", b"text", None], ids=["empty", "text", "cut"])
def test_damaged_files(content, file):
    file.write_bytes(file.read_bytes()[:-50] if content is None else content)
    with pytest.raises(UserError, match="empty|text, not weights|cut short") as caught:
        load_detector(file.parent)
    assert "\n" not in str(caught.value)


def settings_for(toy, out, **given):
    values = {
        "train": toy / "train.json", "val": toy / "val.json", "images": toy, "out": out, "batch": 4,
        "precise_bn_images": 0, "schedule.steps": 1, "optim.lr": 1e-12, "optim.weight_decay": 0, "loop.workers": 0,
        "loop.tensorboard": False, "detector.fc_channels": 32, "detector.proposals_test": 20,
    }  # fmt: skip
    return from_values(FinetuneSettings, {**values, **given})


def test_a_fine_tuned_run_is_the_start_of_another(toy, file, tmp_path, capsys):
    finetune(settings_for(toy, tmp_path / "again", trunk=str(file.parent)))
    assert "RoI windows of 3" in " ".join(capsys.readouterr().out.split())
    before, after = load_file(file), load_file(tmp_path / "again" / "detector.safetensors")
    for name in ("backbone.body.conv1.0.weight", "backbone.fpn.layer_blocks.0.0.weight", "roi_heads.box_head.1.0.weight"):
        torch.testing.assert_close(after[name], before[name], atol=1e-9, rtol=0)


def test_weights_of_a_run_that_diverged_are_not_the_learning_rates_fault(toy, tmp_path):
    trunk = Trunk(SPEC)
    with torch.no_grad():
        trunk.backbone.fpn.layer_blocks[0][0].weight.fill_(float("nan"))
    save_trunk(tmp_path / "trunk.safetensors", trunk, {})
    with pytest.raises(UserError, match="trunk.safetensors: 1 of .* tensors have numbers that are NaN") as caught:
        finetune(settings_for(toy, tmp_path / "run", trunk=str(tmp_path / "trunk.safetensors")))
    assert "lr" not in str(caught.value).replace(str(tmp_path), "") and not (tmp_path / "run").exists()
