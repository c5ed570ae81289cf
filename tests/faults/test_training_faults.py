"""What goes wrong in the middle of training: a loader process dies, an image goes, a gradient is NaN."""

from __future__ import annotations

import os
import signal

import children
import pytest
import torch
from children import Run, run

import mcl
from images import picture_folder
from mcl.engine.checkpoint import first_not_finite
from mcl.engine.logging import Metrics
from mcl.errors import RunFailed
from mcl.methods.mcl.method import Mcl
from tiny import assert_same_state, tiny


def test_a_loader_process_is_killed(words, whole, tmp_path):
    """As the kernel does when memory runs out; what was trained until then is kept."""
    out = tmp_path / "run"
    process = Run(out, *words, "--loop.checkpoint_every", "500", hold=[6]).until(4)
    (worker,) = process.workers()
    os.kill(worker, signal.SIGKILL)
    assert process.go().ends() == 3, process.said
    step = torch.load(out / "checkpoints/last.pt", weights_only=True)["step"]
    assert step >= 4
    assert "a loader process was killed by SIGKILL (out of memory?)" in process.error
    assert f"{out / 'checkpoints/last.pt'} (step {step})" in process.error
    run(out, *words, "--resume")
    assert_same_state(whole, out)


@pytest.mark.parametrize("every, step", [(1, 6), pytest.param(4, 4, marks=pytest.mark.faults)])
def test_a_gradient_is_nan(photos, tmp_path, monkeypatch, every, step):
    """The loss is still finite when the update spoils the weights: they must not get into the checkpoint."""
    monkeypatch.setattr(Mcl, "losses", Mcl.losses)  # given back after the test
    children.poison_gradients(6)
    settings = tiny(**{"schedule.steps": 12, "loop.checkpoint_every": every})
    with pytest.raises(RunFailed, match=rf"not finite|loss is nan.*last.pt \(step {step}\)") as failed:
        mcl.pretrain(data=photos, out=tmp_path / "run", **settings)
    assert f"last.pt (step {step})" in str(failed.value)
    content = torch.load(tmp_path / "run/checkpoints/last.pt", weights_only=True)
    assert content["step"] == step and first_not_finite(content["state"]) is None


@pytest.mark.faults
def test_an_image_is_deleted_during_the_run(tmp_path, monkeypatch):
    photos, out = picture_folder(tmp_path / "photos", 40), tmp_path / "run"
    plain = Metrics.write

    def write(self, step, *rest) -> None:
        plain(self, step, *rest)
        if step == 7:  # in the second of six epochs
            (photos / "0007.jpg").unlink()

    monkeypatch.setattr(Metrics, "write", write)
    summary = mcl.pretrain(data=photos, out=out, **tiny(**{"schedule.steps": 30}))
    assert summary["skipped"] == 1 and summary["cost"]["steps"] == 30
    assert (out / "skipped.txt").read_text() == f"{photos / '0007.jpg'}\tfile is missing\n"
