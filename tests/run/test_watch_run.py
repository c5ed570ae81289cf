"""A collapse that is provoked: said while it runs, found in metrics.jsonl and summary.json afterwards."""

from __future__ import annotations

import json

import mcl
from images import picture_folder

TINY = {
    "batch": 8, "image_size": 32, "model.backbone": "test_resnet", "model.pyramid_channels": 16, "model.hidden": 32,
    "model.embedding": 16, "model.head_convs": 1, "loop.log_every": 5, "loop.threads": 1, "loop.workers": 0,
    "loop.tensorboard": False, "method.scales": [1, 2], "schedule.warmup_steps": 0, "watch.data_wait": None,
}  # fmt: skip
# Weight decay with a large rate takes the weights to nothing, and the target follows at once.
COLLAPSE = {"optim.lr": 0.5, "optim.weight_decay": 1.0, "method.momentum": 0.0, "schedule.decay": "constant"}


def test_a_provoked_collapse_is_said_once_and_can_be_found(tmp_path, capsys):
    photos = picture_folder(tmp_path / "photos", 16)
    run = tmp_path / "run"
    summary = mcl.pretrain(data=photos, out=run, **{**TINY, **COLLAPSE, "schedule.steps": 20})
    said = [line for line in capsys.readouterr().out.splitlines() if "collapsed" in line]
    (warning,) = (w for w in summary["warnings"] if w["kind"] == "collapse_rank")
    assert said == [f"warning, step {warning['step']}: {warning['text']}"] and "directions" in warning["text"]
    assert "--method.temperature" in warning["text"], "the method's advice"
    assert json.loads((run / "summary.json").read_text())["warnings"] == summary["warnings"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    at_step = {row["step"]: row for row in rows}[warning["step"]]
    assert at_step["warnings"]["collapse_rank"] == warning["text"] and at_step["rank"] < 2
    assert at_step["spread"] > 0.5, "which the spread of normalised coordinates does not show"


def test_a_healthy_run_says_nothing(tmp_path, capsys):
    photos = picture_folder(tmp_path / "photos", 16)
    summary = mcl.pretrain(data=photos, out=tmp_path / "run", **{**TINY, "schedule.steps": 20})
    assert summary["warnings"] == [] and "warning" not in capsys.readouterr().out
