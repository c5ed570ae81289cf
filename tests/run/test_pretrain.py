"""``mcl pretrain`` from the command line: what it writes, kill and resume, and bad input."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file

import gate
import mcl
from images import picture_folder
from mcl.errors import RunFailed, UserError
from tiny import TINY, assert_same_state, assert_same_tensors, tiny, wait_for_steps


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "mcl", "pretrain", *TINY, *words]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return picture_folder(tmp_path_factory.mktemp("photos"), 20)


def test_a_run_writes_what_design_promises(photos, tmp_path):
    summary = mcl.pretrain(
        data=photos, out=tmp_path / "run", **tiny(**{"schedule.steps": 4, "loop.tensorboard": True})
    )
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files >= {
        "config.yaml",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
        "trunk.safetensors",
        "montage.png",
        "summary.json",
    }
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert {
        "loss",
        "loss/p5",
        "positive_cosine/p4",
        "negative_cosine/p3",
        "spread",
        "lr",
        "gradient_norm",
        "data_wait",
    } <= set(rows[0])
    assert summary["cost"]["images"] == 32
    online = torch.load(tmp_path / "run/checkpoints/last.pt", weights_only=True)["state"]["method"]
    for name, tensor in load_file(tmp_path / "run/trunk.safetensors").items():
        assert torch.equal(tensor, online[f"online.encoder.trunk.{name}"])


def test_a_resolved_config_gives_the_same_run_again(photos, tmp_path):
    mcl.pretrain(data=photos, out=tmp_path / "a", **tiny(), **{"schedule.steps": 2, "optim.lr": 0.01})
    saved = yaml.safe_load((tmp_path / "a/config.yaml").read_text())
    assert saved["optim"]["lr"] == 0.01 and saved["schedule"] == saved["schedule"] | {
        "steps": 2,
        "epochs": None,
    }
    mcl.pretrain(config=tmp_path / "a/config.yaml", out=tmp_path / "b")
    assert_same_tensors(
        load_file(tmp_path / "a/trunk.safetensors"), load_file(tmp_path / "b/trunk.safetensors")
    )


def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(photos, tmp_path):
    """kill -9 somewhere in a 30-step run, resume in a new process: every tensor is the same."""
    words = [
        "--data",
        str(photos),
        "--schedule.steps",
        "30",
        "--loop.checkpoint_every",
        "4",
        "--loop.workers",
        "1",
    ]
    subprocess.run(
        command(*words, "--out", str(tmp_path / "whole")), check=True, capture_output=True, timeout=600
    )
    held = [sys.executable, gate.__file__, "20", str(tmp_path), "pretrain", *TINY, *words]
    killed = subprocess.Popen([*held, "--out", str(tmp_path / "killed")], stdout=subprocess.DEVNULL)
    metrics = wait_for_steps(tmp_path / "killed", 11, killed.poll)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed/trunk.safetensors").exists()
    checkpoint = torch.load(tmp_path / "killed/checkpoints/last.pt", weights_only=True)
    assert 0 < checkpoint["step"] < 30
    subprocess.run(
        command(*words, "--out", str(tmp_path / "killed"), "--resume"),
        check=True,
        capture_output=True,
        timeout=600,
    )
    assert_same_state(tmp_path / "whole", tmp_path / "killed")
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, 31))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_writes_a_checkpoint_and_says_how_to_go_on(photos, tmp_path, number, code):
    words = ["--data", str(photos), "--schedule.steps", "5000", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command(*words), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    wait_for_steps(tmp_path / "run", 3, process.poll)
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)  # a step, a checkpoint and an exit
    assert process.returncode == code and "--resume" in errors and "Traceback" not in errors
    assert torch.load(tmp_path / "run/checkpoints/last.pt", weights_only=True)["step"] >= 3


def test_a_loss_that_is_not_finite_stops_the_run(photos, tmp_path):
    with pytest.raises(
        RunFailed, match=r"loss is nan at step \d+ \(lr .*last good checkpoint: .*last.pt \(step 1\)"
    ):
        mcl.pretrain(
            data=photos, out=tmp_path / "run",
            **tiny(**{"schedule.steps": 20, "optim.name": "sgd", "optim.lr": 1e30, "schedule.warmup_steps": 0,
                      "optim.clip_norm": None, "loop.checkpoint_every": 1}),
        )  # fmt: skip


def test_folders_are_not_written_over(photos, tmp_path):
    run = tmp_path / "run"
    mcl.pretrain(data=photos, out=run, **tiny(**{"schedule.steps": 1}))
    with pytest.raises(UserError, match="not empty; give --resume"):
        mcl.pretrain(data=photos, out=run, **tiny(**{"schedule.steps": 1}))
    with pytest.raises(UserError, match="optim"):
        mcl.pretrain(data=photos, out=run, resume=True, **tiny(**{"schedule.steps": 1, "optim.lr": 0.5}))
    with pytest.raises(UserError, match="no checkpoint"):
        mcl.pretrain(data=photos, out=tmp_path / "new", resume=True, **tiny())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("x")
    with pytest.raises(UserError, match="not a run of mcl"):
        mcl.pretrain(data=photos, out=tmp_path / "mine", overwrite=True, **tiny())
    assert (tmp_path / "mine/thesis.txt").exists()


def test_unreadable_images_are_skipped_counted_and_listed(tmp_path):
    photos = picture_folder(tmp_path / "photos", 30)
    (photos / "0007.jpg").write_bytes(b"")
    summary = mcl.pretrain(data=photos, out=tmp_path / "run", **tiny(**{"schedule.epochs": 1}))
    assert summary["skipped"] == 1
    assert "0007.jpg" in (tmp_path / "run/skipped.txt").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "nowhere"], "no such file or folder"),
        (["--dta", "x"], "did you mean 'data'"),
        (["--data", ".", "--lr", "3"], "did you mean 'optim.lr'"),
        (["--data", ".", "--recipe", "mcl-r18"], "did you mean 'mcl-r18-64'"),
        (["--data", ".", "--image_size", "100"], "multiple of 32"),
        (["--data", ".", "--method.scales", "1,4"], "scales must be the first one to four"),
        (["--data", ".", "--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, words, message):
    process = subprocess.run(
        command("--out", str(tmp_path / "run"), *words), capture_output=True, text=True, cwd=tmp_path
    )
    assert process.returncode == 2, process.stderr
    assert (
        message in process.stderr
        and process.stderr.startswith("mcl: error: ")
        and process.stderr.count("\n") == 1
    )
    assert not (tmp_path / "run").exists()
