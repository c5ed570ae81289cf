"""Fine-tuning and evaluation on two processes: one detector, every image tested once, the AP of one process."""

from __future__ import annotations

import json

import torch
from safetensors.torch import load_file

from mcl.config.base import from_values
from mcl.config.finetune import EvaluateSettings, FinetuneSettings
from mcl.run.evaluate import evaluate
from mcl.run.finetune import finetune
from ranks import on_ranks


def train_and_test(toy, out) -> dict:
    """Fine-tune from scratch, then evaluate what was saved, with batches that leave a rest."""
    values = {
        "train": toy / "train.json", "val": toy / "val.json", "images": toy, "out": out / "run", "batch": 4,
        "trunk": "none", "model.backbone": "test_resnet", "model.pyramid_channels": 16, "model.head_convs": 1,
        "image_size": 64, "precise_bn_images": 8, "schedule.steps": 2, "schedule.warmup_steps": 0,
        "loop.workers": 0, "loop.tensorboard": False, "loop.log_every": 1, "test_batch": 4,
        "detector.fc_channels": 32, "detector.score_threshold": 0.0, "detector.detections_per_image": 10,
        "detector.proposals_test": 20,
    }  # fmt: skip
    summary = finetune(from_values(FinetuneSettings, values))
    again(toy, out, "two")
    return summary


def again(toy, out, name: str) -> dict:
    options = {
        "detector": out / "run", "val": toy / "val.json", "images": toy, "out": out / name, "workers": 0, "batch": 4,
    }  # fmt: skip
    return evaluate(from_values(EvaluateSettings, options))


def test_two_processes_train_one_detector_and_measure_what_one_measures(toy, tmp_path):
    first, second = on_ranks(2, train_and_test, toy, tmp_path, inside=False)
    assert second == {} and first["test_images"] == 6 and first["cost"]["images"] == 8
    again(toy, tmp_path, "one")
    for name in ("eval.json", "predictions.bbox.json", "predictions.segm.json"):
        two, one = (json.loads((tmp_path / folder / name).read_text()) for folder in ("two", "one"))
        if name == "eval.json":
            two.pop("seconds"), one.pop("seconds")
        assert two == one and two, name
    state = torch.load(tmp_path / "run/checkpoints/last.pt", weights_only=True)["state"]["detector"]
    saved = load_file(tmp_path / "run/detector.safetensors")
    weight = "roi_heads.box_predictor.cls_score.weight"
    assert torch.equal(saved[weight], state[weight])
    assert {result["image_id"] for result in json.loads((tmp_path / "two/predictions.bbox.json").read_text())} <= {
        10, 11, 12, 13, 14, 15
    }  # fmt: skip
