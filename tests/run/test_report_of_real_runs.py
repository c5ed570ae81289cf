"""From a pre-training and a fine-tuning to their page, by the commands that they name at their end."""

from __future__ import annotations

import shlex

import pytest
from tests.detect.conftest import write_toy

from mcl.cli import main
from tiny import TINY

FINETUNE = [
    "--batch=4", "--precise_bn_images=4", "--schedule.steps=2", "--loop.workers=0", "--loop.tensorboard=false", "--loop.log_every=1",
    "--detector.fc_channels=16", "--detector.score_threshold=0", "--detector.detections_per_image=10", "--detector.proposals_test=20",
    "--eval_every=1",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_page_of_runs_that_commands_have_made(tmp_path, capsys):
    for name, seed in (("train", 1), ("val", 2)):
        write_toy(tmp_path, name, 6, seed)
    pretrain, detector = tmp_path / "my trunk", tmp_path / "detector"
    data = ["--train", str(tmp_path / "train.json"), "--val", str(tmp_path / "val.json"), "--images", str(tmp_path)]
    assert main(["pretrain", "--data", str(tmp_path / "train"), "--out", str(pretrain), "--schedule.steps=2", "--loop.workers=0", *TINY]) == 0
    assert main(["finetune", "--trunk", str(pretrain), "--out", str(detector), *data, *FINETUNE]) == 0
    told = [line.partition("to see it: ")[2] for line in capsys.readouterr().out.splitlines() if "to see it: " in line]
    assert len(told) == 2
    for command in told:
        assert main(shlex.split(command)[1:]) == 0
    assert "Accuracy against chance" in (pretrain / "report.html").read_text()
    page = (detector / "report.html").read_text()
    for part in ("AP while training", "Annotated and detected", "What it was given", str(pretrain)):
        assert part in page, part
    assert main(["report", str(detector), str(pretrain), "--out", str(tmp_path / "both.html")]) == 0
