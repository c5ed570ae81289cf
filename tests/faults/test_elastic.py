"""A run that goes on with other numbers of processes: live, stopped by a signal each time."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter, defaultdict
from pathlib import Path

import pytest

import mcl
from images import picture_folder
from mcl.errors import Interrupted
from mcl.run.pretrain import Pretraining
from ranks import on_ranks

pytestmark = pytest.mark.faults

IMAGES, BATCH, STEPS = 40, 8, 15  # three epochs of five steps
TINY = {
    "batch": BATCH, "image_size": 32, "model.backbone": "test_resnet", "model.pyramid_channels": 16, "model.hidden": 32,
    "model.embedding": 16, "loop.log_every": 1, "loop.threads": 1, "loop.tensorboard": False, "loop.workers": 0,
    "method.scales": [1, 2], "schedule.steps": STEPS,
}  # fmt: skip


def train(photos: Path, out: Path, stop_at: int | None, resume: bool, seen: Path) -> str:
    """Train up to a step (of one process, which gets SIGTERM in it) or to the end, writing down which images a step saw."""
    plain = Pretraining.train_step

    def train_step(self, batch, step):
        with seen.open("a") as file:
            file.write(json.dumps([step, batch["index"].tolist()]) + "\n")
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, batch, step)

    Pretraining.train_step = train_step
    try:
        mcl.pretrain(data=photos, out=out, resume=resume, **TINY)
    except (Interrupted, SystemExit) as stopped:
        return type(stopped).__name__
    finally:
        Pretraining.train_step = plain
    return "done"


def test_two_processes_go_on_as_four_and_end_as_one(tmp_path):
    photos, out = picture_folder(tmp_path / "photos", IMAGES), tmp_path / "run"
    parts = [(2, 2), (4, 7), (1, None)]  # stopped inside the first and the second epoch
    for number, (processes, stop_at) in enumerate(parts):
        ends = on_ranks(
            processes, train, photos, out, stop_at, number > 0, tmp_path / f"seen{number}", inside=False
        )
        assert ends == (["done"] if stop_at is None else ["Interrupted", *["SystemExit"] * (processes - 1)])
    steps: dict[int, list[int]] = defaultdict(list)
    for number, (processes, _) in enumerate(parts):
        lines = [json.loads(line) for line in (tmp_path / f"seen{number}").read_text().splitlines()]
        assert all(len(images) == BATCH // processes for _, images in lines)
        for step, images in lines:
            steps[step] += images
    assert sorted(steps) == list(range(STEPS)) and all(len(images) == BATCH for images in steps.values())
    for epoch in range(3):
        of_epoch = Counter(image for step in range(5 * epoch, 5 * epoch + 5) for image in steps[step])
        assert of_epoch == Counter(range(IMAGES)), f"epoch {epoch}: an image twice or never"
    logged = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert logged == list(range(1, STEPS + 1))
