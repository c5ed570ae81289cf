"""``mcl pretrain`` on several processes: torchrun, one writer, signals, a rank that fails, resume with another number."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mcl
from images import picture_folder
from mcl.cli import main
from ranks import on_ranks, start_ranks
from tiny import wait_for_steps

TINY = [
    "--batch=8", "--image_size=32", "--model.backbone=test_resnet", "--model.pyramid_channels=16",
    "--model.hidden=32", "--model.embedding=16", "--model.head_convs=1", "--loop.log_every=1", "--loop.threads=1",
    "--loop.tensorboard=false", "--loop.workers=0", "--method.scales=1,2",
]  # fmt: skip
BROKEN = """
import sys
from mcl.cli import main
from mcl.engine.processes.distributed import rank
from mcl.errors import RunFailed
from mcl.run.pretrain import Pretraining

plain = Pretraining.train_step

def train_step(self, batch, step):
    if (rank(), step) == (1, 2):
        raise RunFailed("injected")
    return plain(self, batch, step)

Pretraining.train_step = train_step
sys.exit(main())
"""


def tiny(**more):
    return {**dict(word[2:].split("=") for word in TINY), "method.scales": [1, 2], **more}


def torchrun(*words: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*start, *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return picture_folder(tmp_path_factory.mktemp("photos"), 24)


def test_torchrun_stopped_by_a_signal_goes_on_with_one_process(photos, tmp_path):
    run, steps = tmp_path / "run", 20_000  # so many that it cannot end before it is stopped
    words = ["pretrain", *TINY, f"--data={photos}", f"--out={run}", f"--schedule.steps={steps}"]
    process = torchrun("-m", "mcl", *words)
    metrics = wait_for_steps(run, 3, process.poll)
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=300)
    stopped = torch.load(run / "checkpoints/last.pt", weights_only=True)
    assert errors.count("mcl: error: stopped by SIGTERM") == 1 and f"at step {stopped['step']};" in errors
    assert out.count("24 images, 20,000 steps of 8, each of 2 processes 4") == 1
    assert out.count(f"pretrain {stopped['step']}/{steps} ") == 1
    assert logged(metrics) == list(range(1, stopped["step"] + 1)) and stopped["step"] < steps

    steps = stopped["step"] + 3
    mcl.pretrain(out=run, data=photos, resume=True, allow_changed=True, **tiny(**{"schedule.steps": steps}))
    assert logged(metrics) == list(range(1, steps + 1))
    whole = mcl.pretrain(out=tmp_path / "one", data=photos, **tiny(**{"schedule.steps": 1}))
    assert whole["cost"]["steps"] == 1
    alone = torch.load(tmp_path / "one/checkpoints/last.pt", weights_only=True)
    assert shapes(stopped["state"]["method"]) == shapes(alone["state"]["method"])
    assert stopped.keys() == alone.keys() and stopped["state"].keys() == alone["state"].keys()


def logged(metrics: Path) -> list[int]:
    return [json.loads(line)["step"] for line in metrics.read_text().splitlines()]


def shapes(state: dict) -> dict:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def test_torchrun_tells_who_failed_first_once_and_with_its_exit_code(photos, tmp_path):
    script = tmp_path / "broken.py"
    script.write_text(BROKEN)
    words = ["pretrain", *TINY, f"--data={photos}", f"--out={tmp_path / 'run'}", "--schedule.steps=5000"]
    # Nearly all of it are imports; without an end to it, rank 0 would wait for an hour.
    _, errors = torchrun(str(script), *words).communicate(timeout=600)
    assert errors.startswith("mcl: error: rank 1 of 2: injected\n"), errors
    assert errors.count("injected") == 1 and "exitcode  : 3" in errors


def pretrain_with_bad_files(photos: Path, out: Path) -> list[str]:
    summary = mcl.pretrain(data=photos, out=out, **tiny(**{"schedule.epochs": 1, "max_unreadable": 0.5}))
    return sorted(summary["last"])


def test_one_writes_and_prints_and_knows_what_all_have_skipped(tmp_path, capfd):
    photos = picture_folder(tmp_path / "photos", 16)
    for number in range(0, 16, 4):
        (photos / f"{number:04d}.jpg").write_bytes(b"")
    first, second = on_ranks(2, pretrain_with_bad_files, photos, tmp_path / "run", inside=False)
    assert first == second and "loss" in first
    assert len((tmp_path / "run/skipped.txt").read_text().splitlines()) == 4
    assert capfd.readouterr().out.count("pre-trained in") == 1
    assert (tmp_path / "run/trunk.safetensors").exists() and (tmp_path / "run/montage.png").exists()


def test_a_batch_that_cannot_be_divided_is_one_line(photos, tmp_path, capfd):
    words = ["pretrain", *TINY, "--batch=7", f"--data={photos}", f"--out={tmp_path / 'run'}"]
    pairs = start_ranks(2, lambda: sys.exit(main(words)), inside=False)
    for process, _ in pairs:
        process.join(300)
    assert [process.exitcode for process, _ in pairs] == [2, 2]
    errors = capfd.readouterr().err
    assert errors.count("\n") == 1 and "--batch 7" in errors and not (tmp_path / "run").exists()
