"""Small trunks with weights and BatchNorm statistics that no two tensors share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from mcl.detect.base import DetectorPlan
from mcl.detect.registry import build_detector, settings_of
from mcl.detect.saved import save_detector
from mcl.nn.trunk import Trunk, TrunkSpec, save_trunk

METADATA = {
    "method": "mcl", "paper": "Multi-level, arXiv 2304.02010", "parts": "backbone+pyramid+head", "recipe": "mcl-r18-64", "steps": 3, "data_images": 12,
    "data_fingerprint": "f00d", "cost": {"seconds": 3600.0, "images": 36},
}  # fmt: skip


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Statistics and scales away from 0 and 1, where a mistake would not show."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
            layer.weight.data.uniform_(0.5, 1.5, generator=generator)
            layer.bias.data.normal_(0, 0.1, generator=generator)
            layer.num_batches_tracked.fill_(7)
    return module.eval()


def make_trunk(backbone: str, channels: int = 16, convs: int = 4, size: int = 64, seed: int = 0) -> Trunk:
    torch.manual_seed(seed)
    return randomise(Trunk(TrunkSpec(backbone, channels, convs, size)), seed)


@pytest.fixture(scope="session")
def resnet18(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("r18") / "trunk.safetensors"
    save_trunk(path, make_trunk("resnet18", 32), METADATA)
    return path


@pytest.fixture(scope="session")
def convnext(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("cn") / "trunk.safetensors"
    save_trunk(path, make_trunk("test_convnext"), METADATA)
    return path


@pytest.fixture(scope="session", params=[True, False], ids=["masks", "boxes"])
def detector_run(request, tmp_path_factory) -> Path:
    """A run folder of ``mcl finetune`` (untrained, but it detects)."""
    return make_detector(tmp_path_factory.mktemp("detector"), request.param)


def make_detector(
    folder: Path, masks: bool, backbone: str = "resnet18", convs: int = 2, roi_size: int | None = None
) -> Path:
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    spec = TrunkSpec(backbone, 16, convs, 64)
    kind = settings_of("mask-rcnn" if masks else "faster-rcnn")
    settings = kind(fc_channels=32, score_threshold=0.2, roi_size=roi_size)
    plan = DetectorPlan(spec, ("a", 'b"""', "c\\"), settings, 64)
    detector = randomise(build_detector(plan))
    detector.roi_heads.box_predictor.cls_score.weight.data.normal_(0, 0.005)
    save_detector(folder / "detector.safetensors", detector, plan, {"trunk": "none", "parts": "none"})
    return folder
