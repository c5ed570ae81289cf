"""Settings that save memory or time change how a run computes, not what it learns."""

from __future__ import annotations

import json
import math

import pytest
import torch

import mcl
from images import picture_folder
from mcl.errors import UserError
from tiny import assert_same_state, tiny


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return picture_folder(tmp_path_factory.mktemp("data") / "photos", 8)


def losses(run) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_activation_checkpointing_learns_the_same(photos, tmp_path):
    for name, on in (("plain", False), ("recomputed", True)):
        mcl.pretrain(
            data=photos, out=tmp_path / name, **tiny(**{"schedule.steps": 3, "loop.activation_checkpointing": on})
        )
    assert_same_state(tmp_path / "plain", tmp_path / "recomputed")


def test_micro_batches_train_and_say_what_does_not_divide(photos, tmp_path, capsys):
    mcl.pretrain(data=photos, out=tmp_path / "run", **tiny(**{"schedule.steps": 3, "accumulate": 4}))
    shown = " ".join(capsys.readouterr().out.split())
    assert "3 steps of 8 in micro-batches of 2" in shown and "2 images do not fill whole montages" not in shown
    seen = losses(tmp_path / "run")
    assert len(seen) == 3 and all(torch.isfinite(torch.tensor(seen)))
    # Predictors begin near zero, so every cosine is about equal: 4 T log(images) at first, if all images count.
    temperature, images = 0.2, 8
    assert seen[0] == pytest.approx(4 * temperature * math.log(images), rel=0.4)
    with pytest.raises(UserError, match="--accumulate 3: does not divide the 8 images of a step"):
        mcl.pretrain(data=photos, out=tmp_path / "other", **tiny(accumulate=3))


def test_compile_that_fails_is_told_and_the_run_goes_on(photos, tmp_path, monkeypatch, capsys):
    def broken(*_, **__):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", broken)
    mcl.pretrain(data=photos, out=tmp_path / "run", **tiny(**{"schedule.steps": 1, "loop.compile": True}))
    shown = " ".join(capsys.readouterr().out.split())
    assert "torch.compile: did not work, going on without" in shown and "no C++ compiler" in shown
    assert (tmp_path / "run/trunk.safetensors").exists()
