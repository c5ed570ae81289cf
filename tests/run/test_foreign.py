"""Weights of other libraries, through the commands: pretrain --init_from and finetune --trunk."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import load_file

import mcl
from images import picture_folder
from mcl.errors import UserError

TINY = {
    "batch": 4, "image_size": 32, "model.backbone": "resnet18", "model.pyramid_channels": 16, "model.hidden": 32,
    "model.embedding": 16, "model.head_convs": 1, "loop.threads": 1, "loop.workers": 0, "loop.tensorboard": False,
    "schedule.steps": 1, "optim.lr": 1e-12, "optim.weight_decay": 0,
}  # fmt: skip


def test_pretraining_starts_from_foreign_weights(tmp_path, capsys):
    photos = picture_folder(tmp_path / "photos", 6)
    backbone = timm.create_model("resnet18", num_classes=0)
    moco = {f"module.encoder_q.{name}": tensor for name, tensor in backbone.state_dict().items()}
    torch.save({"state_dict": moco, "epoch": 200}, tmp_path / "moco.pth.tar")
    mcl.pretrain(data=photos, out=tmp_path / "run", init_from=str(tmp_path / "moco.pth.tar"), **TINY)
    assert "moco" in capsys.readouterr().out.lower()
    trunk = load_file(tmp_path / "run/trunk.safetensors")
    weight = trunk["backbone.body.layer3.0.conv1.weight"]
    torch.testing.assert_close(weight, backbone.state_dict()["layer3.0.conv1.weight"], atol=1e-8, rtol=0)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    photos = picture_folder(tmp_path / "photos", 6)
    torch.save(timm.create_model("resnet34", num_classes=0).state_dict(), tmp_path / "deeper.pth")
    with pytest.raises(UserError, match="deeper.pth"):
        mcl.pretrain(data=photos, out=tmp_path / "run", init_from=str(tmp_path / "deeper.pth"), **TINY)
    assert not (tmp_path / "run").exists()
