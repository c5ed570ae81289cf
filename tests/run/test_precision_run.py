"""``auto`` in real runs: decided once, remembered, written down, and without a trace in the result."""

from __future__ import annotations

import pytest
import torch
import yaml
from safetensors.torch import load_file

import mcl
from images import picture_folder
from mcl.config.base import from_values
from mcl.config.pretrain import PretrainSettings
from mcl.engine.machine.precision import Format, Trial, Tried
from mcl.methods.step import try_recipe
from mcl.run import precision
from tiny import assert_same_state

TINY = {
    "batch": 4, "image_size": 32, "model.backbone": "test_resnet", "model.pyramid_channels": 16, "model.hidden": 32,
    "model.embedding": 16, "model.head_convs": 1, "loop.log_every": 1, "loop.threads": 1, "loop.workers": 0,
    "loop.tensorboard": False, "schedule.steps": 2, "method.scales": [1, 2],
}  # fmt: skip
NHWC, BF16, NCHW = Format("fp32", True), Format("bf16", True), Format("fp32", False)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return picture_folder(tmp_path_factory.mktemp("photos"), 6)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Runs of any length make a trial; nothing is remembered yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(precision, "LEAST_STEPS", 1)
    return tmp_path / "cache/mcl/formats.json"


def finds(monkeypatch, best: Format) -> list[tuple[list[Format], int]]:
    """Let trials find a format the quickest; returns what they were asked."""
    asked = []

    def trial(build, formats, device, *, agree, steps):
        asked.append((list(formats), steps))
        build(best)()
        return Trial(tuple(Tried(one, 0.5 if one == best else 1.0) for one in formats), 0.1)

    monkeypatch.setattr(precision, "try_formats", trial)
    return asked


def loop_of(run):
    saved = yaml.safe_load((run / "config.yaml").read_text())["loop"]
    return saved["precision"], saved["channels_last"]


def test_a_trial_changes_nothing_but_the_format(photos, tmp_path, monkeypatch, cache, capsys):
    mcl.pretrain(data=photos, out=tmp_path / "set", **{**TINY, "loop.precision": "fp32", "loop.channels_last": True})
    monkeypatch.setattr(precision, "formats_for", lambda loop: [NHWC])
    mcl.pretrain(data=photos, out=tmp_path / "auto", **TINY)
    assert "precision: fp32, channels_last " in capsys.readouterr().out
    told, tried = (load_file(tmp_path / run / "trunk.safetensors") for run in ("set", "auto"))
    assert all(torch.equal(tensor, tried[name]) for name, tensor in told.items())


def test_the_choice_is_told_remembered_and_taken_by_the_next_run(photos, tmp_path, monkeypatch, cache, capsys):
    asked = finds(monkeypatch, NCHW)
    mcl.pretrain(data=photos, out=tmp_path / "first", **TINY)
    told = "takes fp32, contiguous, 2.00 times as fast as fp32, channels_last"
    assert told in " ".join(capsys.readouterr().out.split()) and cache.is_file()
    mcl.pretrain(data=photos, out=tmp_path / "second", **{**TINY, "schedule.steps": 3})
    assert f"{told}: remembered from a trial on" in " ".join(capsys.readouterr().out.split())
    assert asked == [([NHWC, BF16, NCHW], 2)] and loop_of(tmp_path / "second") == ("fp32", False)
    mcl.pretrain(data=photos, out=tmp_path / "third", **{**TINY, "batch": 2})
    assert len(asked) == 2, "another recipe"


def test_with_the_number_format_set_the_layout_is_still_chosen(photos, tmp_path, monkeypatch, cache):
    asked = finds(monkeypatch, NCHW)
    mcl.pretrain(data=photos, out=tmp_path / "run", **{**TINY, "loop.precision": "fp32"})
    assert asked == [([NHWC, NCHW], 2)] and loop_of(tmp_path / "run") == ("fp32", False)
    mcl.pretrain(data=photos, out=tmp_path / "set", **{**TINY, "loop.precision": "fp32", "loop.channels_last": True})
    assert len(asked) == 1 and loop_of(tmp_path / "set") == ("fp32", True)


def test_a_short_run_makes_no_trial_but_takes_what_is_known(photos, tmp_path, monkeypatch, cache, capsys):
    asked = finds(monkeypatch, NCHW)
    monkeypatch.setattr(precision, "LEAST_STEPS", 3)
    mcl.pretrain(data=photos, out=tmp_path / "short", **TINY)
    assert not asked and "2 steps are too few for a trial" in capsys.readouterr().out
    assert loop_of(tmp_path / "short") == ("fp32", True)
    mcl.pretrain(data=photos, out=tmp_path / "long", **{**TINY, "schedule.steps": 3})
    mcl.pretrain(data=photos, out=tmp_path / "again", **TINY)
    assert len(asked) == 1 and loop_of(tmp_path / "again") == ("fp32", False)


def test_a_cache_that_cannot_be_written_is_no_error(photos, tmp_path, monkeypatch, cache):
    (tmp_path / "cache").write_text("a file in its place")
    asked = finds(monkeypatch, NCHW)
    for run in ("first", "second"):
        mcl.pretrain(data=photos, out=tmp_path / run, **TINY)
    assert len(asked) == 2


@pytest.mark.parametrize("chosen", [Format("bf16", True), NCHW], ids=str)
def test_a_resumed_run_keeps_what_it_began_with(photos, tmp_path, monkeypatch, cache, chosen):
    """Bit for bit, even where this machine would choose otherwise by now, or config.yaml has gone."""
    finds(monkeypatch, chosen)
    whole = mcl.pretrain(data=photos, out=tmp_path / "whole", **{**TINY, "schedule.steps": 4})
    given = {**TINY, "schedule.steps": 4, "loop.checkpoint_every": 2, "data": photos, "out": tmp_path / "run"}
    with monkeypatch.context() as broken:
        broken.setattr("mcl.run.pretrain.Pretraining.train_step", stops_at(2))
        with pytest.raises(KeyboardInterrupt):
            mcl.pretrain(**given)
    assert whole["precision"] == {"precision": chosen.precision, "channels_last": chosen.channels_last}

    def no_second_trial(*_, **__):
        raise AssertionError("a resumed run made a trial")

    monkeypatch.setattr(precision, "try_formats", no_second_trial)
    monkeypatch.setattr(precision.Memory, "find", no_second_trial)
    (tmp_path / "run/config.yaml").unlink()
    again = mcl.pretrain(**given, resume=True)
    assert again["precision"] == whole["precision"] and loop_of(tmp_path / "run") == (chosen.precision, chosen.channels_last)
    assert_same_state(tmp_path / "whole", tmp_path / "run")


def stops_at(step: int):
    from mcl.run.pretrain import Pretraining

    train = Pretraining.train_step

    def train_step(self, batch, number):
        if number == step:
            raise KeyboardInterrupt
        return train(self, batch, number)

    return train_step


def test_every_format_of_a_recipe_can_be_tried(monkeypatch):
    monkeypatch.setattr("mcl.engine.machine.precision.bf16_slowdown", lambda: 1.0)
    monkeypatch.setattr("mcl.engine.machine.precision.HOPELESS", 1e9)
    given = {**TINY, "data": "photos", "out": "run"}
    trial = try_recipe(from_values(PretrainSettings, given), torch.device("cpu"))
    assert [str(t.format) for t in trial.tried] == ["fp32, channels_last", "bf16, channels_last", "fp32, contiguous"]
    assert all(t.seconds > 0 for t in trial.tried) and trial.seconds >= 9 * min(t.seconds for t in trial.tried)
