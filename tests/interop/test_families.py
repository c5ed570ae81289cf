"""One backbone of each family: pre-trained two steps, saved, exported, and a detector fine-tuned two steps from it."""

from __future__ import annotations

import pytest
import torch

import mcl
from levels import random_batch
from mcl.config.models import ModelsSettings
from mcl.config.pretrain import ModelSettings
from mcl.detect.base import DetectorPlan
from mcl.detect.load import load_trunk_into
from mcl.detect.registry import build_detector, settings_of
from mcl.errors import UserError
from mcl.methods.mcl.method import Mcl
from mcl.methods.mcl.settings import MclSettings
from mcl.nn.backbone import names_of
from mcl.nn.parts import PIECES
from mcl.nn.trunk import Trunk, TrunkSpec, load_trunk, read_trunk, save_trunk
from mcl.run.models import models, shipped

# What mcl models calls tested is what is tested here.
TESTED = [row["name"] for row in shipped() if row["tested"]]


def pretrain_two_steps(trunk: Trunk) -> Mcl:
    method = Mcl(trunk, ModelSettings(hidden=16, embedding=8), MclSettings(), seed=0).train()
    optimizer = torch.optim.SGD(method.trained.parameters(), lr=0.01)
    batch = random_batch(2, (1, 2, 4, 8), torch.Generator().manual_seed(0))
    for step in range(2):
        loss, _ = method.loss(batch, step)
        loss.backward()
        if step == 0:
            assert all(p.grad is not None for p in method.trained.parameters())
        optimizer.step()
        optimizer.zero_grad()
        method.after_update(step, 2)
    assert torch.isfinite(loss)
    return method


def finetune_two_steps(spec: TrunkSpec, state: dict) -> None:
    settings = settings_of("faster-rcnn")(fc_channels=16, boxes_per_image=8)
    detector = build_detector(DetectorPlan(spec, ("a", "b"), settings, 64)).train()
    report = load_trunk_into(detector, state, PIECES)
    assert set(report.matched) == set(state)
    optimizer = torch.optim.SGD(detector.parameters(), lr=1e-3)
    target = {"boxes": torch.tensor([[4.0, 4.0, 40.0, 40.0]]), "labels": torch.tensor([1])}
    for _ in range(2):
        loss = sum(detector(list(torch.rand(2, 3, 64, 64)), [target, target]).values())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.isfinite(loss)


@pytest.mark.parametrize("name", TESTED)
def test_family_goes_the_whole_way(name, tmp_path):
    torch.manual_seed(0)
    method = pretrain_two_steps(Trunk(TrunkSpec(name, 16, 1, 64)))
    path = tmp_path / "trunk.safetensors"
    save_trunk(path, method.trunk, {"method": "mcl", "parts": "backbone+pyramid+head"})
    read = load_trunk(path)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for level, ours in method.trunk.eval()(images).items():
            assert torch.equal(ours, read(images)[level])
            assert ours.shape == (1, 16, 64 >> int(level[1]), 64 >> int(level[1]))
    out = mcl.export(trunk=path, to="timm", out=tmp_path / "folder")
    assert set(out["differences"]) == set(names_of(method.trunk.backbone.body))
    assert max(out["differences"].values()) < 1e-5
    spec, state, _ = read_trunk(path)
    finetune_two_steps(spec, state)


def test_networks_without_four_strides_are_refused():
    with pytest.raises(UserError, match=r"has features at strides \["):
        Trunk(TrunkSpec("vit_tiny_r_s16_p8_224", 16, 1, 64))


def test_models_lists_and_finds():
    out = models(ModelsSettings(find="resnet18"))
    assert [row["name"] for row in out["models"]] == ["resnet18"]
    row = out["models"][0]
    assert round(row["parameters"] / 1e6, 1) == 11.2 and 3.4 < row["gflops"] < 3.8 and row["tested"]
    assert "detectron2" in row["exports"] and "yes" in out["message"]
    with pytest.raises(UserError, match="no listed backbone"):
        models(ModelsSettings(find="resnet181"))


def test_models_measures_any_timm_network():
    (row,) = models(ModelsSettings(measure=["test_resnet"]))["models"]
    assert row["parameters"] > 1e5 and row["gflops"] > 0 and row["exports"] == "timm, safetensors"
