"""The whole way on toy scenes: a trunk, fine-tuning, AP, evaluation of the saved detector, resume."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mcl.config.base import from_values
from mcl.config.finetune import EvaluateSettings, FinetuneSettings
from mcl.engine.machine.precision import Format
from mcl.errors import UserError
from mcl.nn.trunk import Trunk, save_trunk
from mcl.run import precision
from mcl.run.evaluate import evaluate
from mcl.run.finetune import finetune

from .conftest import SPEC, stop_after_two


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("trunk") / "trunk.safetensors"
    save_trunk(path, Trunk(SPEC), {})
    return path


def settings_for(toy, out, **given):
    values = {
        "train": toy / "train.json", "val": toy / "val.json", "images": toy, "out": out, "batch": 4,
        "precise_bn_images": 8, "schedule.steps": 4, "loop.workers": 0, "loop.tensorboard": False,
        "detector.fc_channels": 32, "detector.score_threshold": 0.0, "detector.detections_per_image": 10,
        "detector.proposals_test": 20,
    }  # fmt: skip
    return from_values(FinetuneSettings, {**values, **given})


def test_from_trunk_to_ap_and_again(toy, trunk, tmp_path):
    summary = finetune(settings_for(toy, tmp_path / "run", trunk=str(trunk)))
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert {
        "config.yaml", "detector.safetensors", "eval.json", "predictions.bbox.json", "predictions.segm.json",
        "detections.png", "summary.json", "metrics.jsonl",
    } <= files  # fmt: skip
    assert 0 < summary["loaded_share"] < 1 and summary["cost"]["images"] == 16
    options = {
        "detector": tmp_path / "run",
        "val": toy / "val.json",
        "images": toy,
        "out": tmp_path / "again",
        "workers": 0,
    }
    evaluate(from_values(EvaluateSettings, options))
    first, second = (json.loads((tmp_path / d / "eval.json").read_text()) for d in ("run", "again"))
    assert first["bbox"] == second["bbox"] and first["segm"] == second["segm"]


def test_frozen_trunk_is_handed_on_unchanged(toy, trunk, tmp_path):
    finetune(settings_for(toy, tmp_path / "run", trunk=str(trunk), freeze="trunk"))
    before, after = load_file(trunk), load_file(tmp_path / "run" / "detector.safetensors")
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_precision_auto_is_decided_by_steps_of_a_copy(toy, trunk, tmp_path, monkeypatch):
    """What is written down is what was chosen, and the trial leaves the result alone."""
    given = {"trunk": str(trunk), "schedule.steps": 1, "precise_bn_images": 0}
    monkeypatch.setattr(precision, "formats_for", lambda loop: [Format("fp32", False)])
    monkeypatch.setattr(precision, "LEAST_STEPS", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    free = {"loop.precision": "auto", "loop.channels_last": "auto"}
    finetune(settings_for(toy, tmp_path / "auto", **given, **free))
    finetune(settings_for(toy, tmp_path / "set", **given, **{"loop.precision": "fp32", "loop.channels_last": False}))
    loops = [yaml.safe_load((tmp_path / run / "config.yaml").read_text())["loop"] for run in ("auto", "set")]
    assert loops[0] == loops[1] and loops[0]["precision"] == "fp32"
    auto, told = (load_file(tmp_path / run / "detector.safetensors") for run in ("auto", "set"))
    assert all(torch.equal(tensor, told[name]) for name, tensor in auto.items())


def test_like_takes_shapes_not_weights(toy, trunk, tmp_path):
    finetune(settings_for(toy, tmp_path / "run", trunk="none", like=trunk, **{"schedule.steps": 1}))
    before, after = load_file(trunk), load_file(tmp_path / "run" / "detector.safetensors")
    assert all(after[name].shape == tensor.shape for name, tensor in before.items())
    name = "backbone.fpn.layer_blocks.0.0.weight"
    assert not torch.allclose(before[name], after[name], atol=0.01)


@pytest.mark.parametrize(
    "given, words",
    [
        ({"trunk": "none", "like": "x"}, "x"),
        ({"trunk": "gone.safetensors"}, "gone.safetensors"),
        ({"trunk": "none", "model.backbone": "resnet5"}, "resnet5"),
        ({"trunk": "a", "freeze": "trunk", "parts": "backbone"}, "--parts backbone\\+pyramid\\+head"),
        ({"trunk": "none", "freeze": "backbone"}, "needs a trunk"),
        ({"trunk": "none", "calibrate_bn": True}, "only goes with --freeze trunk"),
        ({"trunk": "none", "image_size": 100}, "multiple of 32"),
        ({"trunk": "none", "views.scale_jitter": (2, 1)}, "scale_jitter"),
        ({"trunk": "none", "freeze": "trunk", "views.colour": 0.5}, "only flip"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_folder(toy, tmp_path, given, words):
    with pytest.raises(UserError, match=words) as error:
        finetune(settings_for(toy, tmp_path / "run", **given))
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_detections_of_another_data_set_are_matched_by_name(toy, trunk, tmp_path):
    """Another file may number its classes differently, lack some and have others."""
    finetune(settings_for(toy, tmp_path / "run", trunk=str(trunk)))
    content = json.loads((toy / "val.json").read_text())
    for category, name in zip(content["categories"], ["disc", "moon", "square"], strict=True):
        category["name"] = name
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    options = {
        "detector": tmp_path / "run",
        "val": other,
        "images": toy,
        "out": tmp_path / "again",
        "workers": 0,
    }
    summary = evaluate(from_values(EvaluateSettings, options))
    assert "'moon'" in summary["notes"][0]
    found = {
        result["category_id"] for result in json.loads((tmp_path / "again/predictions.bbox.json").read_text())
    }
    assert found <= {5, 9}
    for category in content["categories"]:
        category["name"] += "?"
    other.write_text(json.dumps(content))
    with pytest.raises(UserError, match="no category in common"):
        evaluate(from_values(EvaluateSettings, {**options, "out": tmp_path / "third"}))


def test_measuring_on_the_way_changes_nothing(toy, trunk, tmp_path):
    """Weights are those of a run without it, bit for bit, and a resumed run has each step once."""
    options = {"trunk": str(trunk), "loop.checkpoint_every": 3}
    finetune(settings_for(toy, tmp_path / "plain", **options))
    finetune(settings_for(toy, tmp_path / "curve", **options, eval_every=1))
    plain, curve = (load_file(tmp_path / d / "detector.safetensors") for d in ("plain", "curve"))
    assert all(torch.equal(plain[name], curve[name]) for name in plain)
    lines = (tmp_path / "curve/curve.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    # Measured as the end is: a run of two steps ends where the curve says.
    constant = {"schedule.decay": "constant", "schedule.steps": 3, "eval_every": 2}
    finetune(settings_for(toy, tmp_path / "three", trunk=str(trunk), **constant))
    summary = finetune(settings_for(toy, tmp_path / "two", trunk=str(trunk), **{**constant, "schedule.steps": 2}))
    line = json.loads((tmp_path / "three/curve.jsonl").read_text())
    assert line == {"step": 2, **{key: summary[key] for key in ("box_AP", "mask_AP", "class_agnostic_AP")}}


def test_a_resumed_curve_has_each_step_once(toy, trunk, tmp_path):
    options = {"trunk": str(trunk), "loop.checkpoint_every": 1, "eval_every": 1}
    settings = settings_for(toy, tmp_path / "run", **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mcl.run.finetune.run_loop", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            finetune(settings)
    finetune(settings.model_copy(update={"resume": True}))
    lines = (tmp_path / "run/curve.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
