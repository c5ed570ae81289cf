"""A study of minutes cut to seconds: toy scenes, the smallest network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tests.detect.conftest import write_toy

from mcl.studies.plan import Plan
from mcl.studies.study import read_study


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("studied")
    for seed, (name, count) in enumerate({"train": 12, "val": 5, "test": 6, "unlabeled": 16}.items()):
        write_toy(folder, name, count, seed)
    return folder


@pytest.fixture
def values(toy_data) -> dict:
    """A study that pre-trains one method and fine-tunes from it and from scratch."""
    return {
        "data": {"toy": {"folder": str(toy_data)}},
        "pretrain": {
            "batch": 4, "image_size": 64, "loop": {"workers": 0, "tensorboard": False, "log_every": 1, "checkpoint_every": 1},
            "model": {"backbone": "test_resnet", "pyramid_channels": 16, "head_convs": 1, "hidden": 16, "embedding": 8},
            "optim": {"name": "sgd", "lr": 0.01}, "schedule": {"warmup_steps": 0},
        },
        "finetune": {
            "batch": 4, "precise_bn_images": 4, "loop": {"workers": 0, "tensorboard": False, "log_every": 1, "checkpoint_every": 1},
            "detector": {"fc_channels": 16, "score_threshold": 0.0, "detections_per_image": 10, "proposals_test": 20},
            "schedule": {"warmup_steps": 0},
        },
        "budget": {"equal": "flops", "like": "mcl", "amounts": 3},
        "labels": 8, "steps": 3, "seeds": [0, 1], "resamples": 100, "reference": "scratch",
        "starts": {"scratch": {"trunk": "none"}, "mcl": {"method": "mcl", "parts": "backbone+pyramid+head"}},
    }  # fmt: skip


@pytest.fixture
def write(tmp_path):
    """``write(values)``: the YAML of a study."""

    def write(values: dict) -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(json.loads(json.dumps(values))))
        return path

    return write


@pytest.fixture
def plan_of(write, tmp_path):
    """``plan_of(values)``: its plan."""

    def plan_of(values: dict) -> Plan:
        path = write(values)
        return Plan(read_study(path), path, tmp_path / "runs")

    return plan_of
