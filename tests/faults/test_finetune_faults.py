"""``mcl finetune`` runs in the same loop and the same kind of folder: killed, stopped, locked, resumed."""

from __future__ import annotations

import signal

import pytest
import torch
from children import Run, run
from safetensors.torch import load_file

from detect.conftest import write_toy
from mcl.cli import main
from tiny import assert_same_state, assert_same_tensors

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def detection(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("toy")
    train, val = write_toy(folder, "train", 12, seed=1), write_toy(folder, "val", 3, seed=2)
    given = {
        "trunk": "none", "train": train, "val": val, "images": folder, "batch": 2, "image_size": 64,
        "model.backbone": "test_resnet", "model.pyramid_channels": 16, "model.head_convs": 1,
        "schedule.steps": 24, "precise_bn_images": 4, "loop.checkpoint_every": 3, "loop.log_every": 1,
        "loop.workers": 1, "loop.threads": 1, "loop.tensorboard": "false", "detector.fc_channels": 16,
        "detector.proposals_train": 30, "detector.proposals_test": 10, "detector.detections_per_image": 5,
        "views.colour": 0.3,
    }  # fmt: skip
    return [word for key, value in given.items() for word in (f"--{key}", str(value))]


def test_finetune_is_stopped_killed_locked_and_resumed(detection, tmp_path, capsys):
    out = tmp_path / "run"
    run(tmp_path / "whole", *detection, command="finetune")
    first = Run(out, *detection, command="finetune", hold=[8]).until(5).signal(signal.SIGSTOP)
    assert main(["finetune", *detection, "--out", str(out), "--resume"]) == 2
    assert f"process {first.pid} on " in capsys.readouterr().err
    assert first.signal(signal.SIGKILL).ends() == -signal.SIGKILL
    reached = len((out / "metrics.jsonl").read_bytes().splitlines())
    second = Run(out, *detection, "--resume", command="finetune", hold=[20]).until(reached + 2)
    assert second.signal(signal.SIGUSR1).go().ends() == 138 and "SIGUSR1" in second.error
    step = torch.load(out / "checkpoints/last.pt", weights_only=True)["step"]
    assert reached < step < 24
    changed = ("--optim.lr", "0.5", "--detector.nms_threshold", "0.9")
    assert main(["finetune", *detection, "--out", str(out), "--resume", *changed]) == 2
    error = capsys.readouterr().err
    assert "--optim.lr was " in error and "--detector.nms_threshold was 0.5, now 0.9" in error
    run(out, *detection, "--resume", command="finetune")
    assert_same_state(tmp_path / "whole", out)
    names = [folder / "detector.safetensors" for folder in (tmp_path / "whole", out)]
    assert_same_tensors(*map(load_file, names))
