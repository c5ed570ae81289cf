"""The smallest pre-training run, and what tests that break one off need."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

TINY = [
    "--batch=8", "--image_size=32", "--model.backbone=test_resnet", "--model.pyramid_channels=16",
    "--model.hidden=32", "--model.embedding=16", "--model.head_convs=1", "--loop.log_every=1", "--loop.threads=1",
    "--loop.tensorboard=false",
]  # fmt: skip


def tiny(**more):
    return {**dict(word[2:].split("=") for word in TINY), "loop.workers": 0, **more}


def wait_for_steps(run: Path, steps: int, ended: Callable[[], int | None], seconds: float = 400) -> Path:
    """Until ``steps`` lines are in a run's metrics.jsonl, whose path is returned; ``ended`` is its exit code."""
    metrics, deadline = run / "metrics.jsonl", time.monotonic() + seconds
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= steps):
        assert ended() is None and time.monotonic() < deadline, (ended(), metrics)
        time.sleep(0.005)
    return metrics


def assert_same_state(whole: Path, other: Path) -> None:
    """Two runs' last checkpoints hold the same, bit for bit (but for the newest numbers, among which are times)."""
    states = [torch.load(run / "checkpoints/last.pt", weights_only=True) for run in (whole, other)]
    assert states[0]["step"] == states[1]["step"]
    assert_same_tensors(
        *(flatten({k: v for k, v in state["state"].items() if k != "last"}) for state in states)
    )


def flatten(state, prefix="") -> dict:
    if isinstance(state, dict):
        return {k: v for key, value in state.items() for k, v in flatten(value, f"{prefix}{key}.").items()}
    if isinstance(state, list | tuple):
        return {k: v for i, value in enumerate(state) for k, v in flatten(value, f"{prefix}{i}.").items()}
    return {prefix: state}


def assert_same_tensors(a: dict, b: dict) -> None:
    assert a.keys() == b.keys() and a
    for name, value in a.items():
        assert torch.equal(value, b[name]) if torch.is_tensor(value) else value == b[name], name
