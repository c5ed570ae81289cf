"""What only a GPU can show; without one, all of it is skipped. ``make gpu`` runs it first."""

from __future__ import annotations

import pytest
import torch

import mcl
from images import picture_folder
from mcl.config.base import from_values
from mcl.config.pretrain import PretrainSettings
from mcl.engine.machine.precision import Format
from mcl.methods.registry import names, settings_of
from mcl.methods.step import TrainingStep, example_batch, pretraining_step
from tiny import tiny

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CUDA = torch.device("cuda")
OTHER = {"mae": {"model.backbone": "test_vit", "model.patch_size": 8}}
SMALL = {"hidden": 16, "embedding": 8, "queue": 24, "bottleneck": 8}  # where a method has them


def settings(name: str = "mcl", **more) -> PretrainSettings:
    fields = settings_of(name).model_fields
    small = {f"method.{key}": value for key, value in SMALL.items() if key in fields and name != "mcl"}
    return from_values(PretrainSettings, {**tiny(), **small, **OTHER.get(name, {}), "data": "a", "out": "b", "image_size": 64, "method.name": name, **more})


@pytest.mark.parametrize("name", names())
def test_a_step_does_not_wait_for_the_gpu(name):
    """torch itself raises at whatever makes the host wait."""
    recipe = settings(name)
    step = TrainingStep(recipe, CUDA)
    host = example_batch(recipe, "cpu")
    step.batch = {**host, "views": {key: pixels.pin_memory() for key, pixels in host["views"].items()}}
    step(), step()  # what is made once
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(), step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.isfinite(tensor).all() for tensor in step.method.parameters())


def test_the_gpu_computes_the_same_loss_as_the_cpu():
    losses = []
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for device in ("cpu", CUDA):
            step = TrainingStep(settings(), device)
            step.batch = example_batch(step.settings, "cpu")
            losses.append(float(step.method.loss(step.batch, 0)[0].detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("chosen", [Format("bf16", True), Format("fp32", False), Format("bf16", False)], ids=str)
def test_every_format_trains(chosen):
    step = pretraining_step(settings(), CUDA)(chosen)
    step(), step()
    assert all(torch.isfinite(tensor).all() for tensor in step.method.parameters())


def test_a_run_with_views_finished_on_the_gpu_goes_on(tmp_path):
    photos = picture_folder(tmp_path / "photos", 16)
    given = {**tiny(), "loop.device": "cuda", "loop.workers": 1, "data": photos, "out": tmp_path / "run"}
    mcl.pretrain(**given, **{"schedule.steps": 2})
    summary = mcl.pretrain(**given, **{"schedule.steps": 4}, resume=True, allow_changed=True)
    assert summary["cost"]["images"] == 32 and torch.isfinite(torch.tensor(summary["last"]["loss"]))
    assert (tmp_path / "run/trunk.safetensors").exists()
