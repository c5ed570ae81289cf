"""``--loop.precision auto`` in real runs: decided once, written down, and without a trace in the result."""

from __future__ import annotations

import pytest
import torch
import yaml
from safetensors.torch import load_file

import mcl
from images import picture_folder
from mcl.config.base import from_values
from mcl.config.pretrain import PretrainSettings
from mcl.engine.machine.precision import Format
from mcl.methods.step import try_recipe
from mcl.run import precision

TINY = {
    "batch": 4, "image_size": 32, "model.backbone": "test_resnet", "model.pyramid_channels": 16, "model.hidden": 32,
    "model.embedding": 16, "model.head_convs": 1, "loop.log_every": 1, "loop.threads": 1, "loop.workers": 0,
    "loop.tensorboard": False, "schedule.steps": 2, "method.scales": [1, 2],
}  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return picture_folder(tmp_path_factory.mktemp("photos"), 6)


def test_a_trial_changes_nothing_but_the_format(photos, tmp_path, monkeypatch, capsys):
    mcl.pretrain(data=photos, out=tmp_path / "set", **TINY)
    monkeypatch.setattr(precision, "formats_for", lambda channels_last: [Format("fp32", True)])
    mcl.pretrain(data=photos, out=tmp_path / "auto", **{**TINY, "loop.precision": "auto"})
    assert "precision: fp32, channels_last " in capsys.readouterr().out
    told, tried = (load_file(tmp_path / run / "trunk.safetensors") for run in ("set", "auto"))
    assert all(torch.equal(tensor, tried[name]) for name, tensor in told.items())


def test_the_choice_is_written_down_and_taken_when_resuming(photos, tmp_path, monkeypatch):
    auto = {**TINY, "loop.precision": "auto", "data": photos, "out": tmp_path / "run"}
    monkeypatch.setattr(precision, "formats_for", lambda channels_last: [Format("bf16", False)])
    monkeypatch.setattr("mcl.engine.machine.precision.bf16_slowdown", lambda: 1.0)
    summary = mcl.pretrain(**auto)
    saved = yaml.safe_load((tmp_path / "run/config.yaml").read_text())["loop"]
    assert (saved["precision"], saved["channels_last"]) == ("bf16", False)
    assert summary["precision"] == {"precision": "bf16", "channels_last": False}

    def no_second_trial(*_):
        raise AssertionError("a resumed run made a trial")

    monkeypatch.setattr(precision, "try_formats", no_second_trial)
    again = mcl.pretrain(**auto, resume=True)
    assert again["precision"] == summary["precision"]


def test_every_format_of_a_recipe_can_be_tried(monkeypatch):
    monkeypatch.setattr("mcl.engine.machine.precision.bf16_slowdown", lambda: 1.0)
    monkeypatch.setattr("mcl.engine.machine.precision.HOPELESS", 1e9)
    given = {**TINY, "data": "photos", "out": "run"}
    trial = try_recipe(from_values(PretrainSettings, given), torch.device("cpu"))
    assert [str(t.format) for t in trial.tried] == ["fp32, channels_last", "bf16, channels_last", "fp32, contiguous"]
    assert all(t.seconds > 0 for t in trial.tried) and trial.seconds >= 9 * min(t.seconds for t in trial.tried)
