"""Peak memory of a training step: on a CPU in a process of its own, on a GPU from CUDA's allocator."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import torch

from mcl.bench.step import TrainingStep, variants_of
from mcl.config.bench import BenchStepSettings
from mcl.engine.device import prepare_device
from mcl.errors import RunFailed

STEPS = 2  # the optimizer's state appears in the first


def step_memory(settings: BenchStepSettings, variant: str, device: torch.device) -> dict[str, float]:
    """``{"model_mb", "peak_mb"}``: of the built model and its process, and what steps need on top at their peak."""
    if device.type == "cuda":
        return _measure(settings, variant, device)
    request = json.dumps({"settings": settings.model_dump(mode="json", by_alias=True), "variant": variant})
    done = subprocess.run(
        [sys.executable, "-m", "mcl.bench.memory"], input=request, capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RunFailed(f"memory of {variant} could not be measured (out of memory?): {reason}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _measure(settings: BenchStepSettings, variant: str, device: torch.device) -> dict[str, float]:
    step = TrainingStep(settings, variants_of(settings.method)[variant], device)
    _reset_peak(device)
    before = _peak_bytes(device)
    for _ in range(STEPS):
        step()
    return {
        "model_mb": round(before / 2**20, 1),
        "peak_mb": round((_peak_bytes(device) - before) / 2**20, 1),
    }


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # not Linux, or not allowed: the peak while building then counts as baseline


def _peak_bytes(device: torch.device) -> int:
    """Peak so far. Linux hands a parent's ``ru_maxrss`` on to its children, so its own high-water mark is read."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    """Read a request from stdin, print the answer."""
    request = json.load(sys.stdin)
    settings = BenchStepSettings(**request["settings"])
    print(json.dumps(_measure(settings, request["variant"], prepare_device(settings.loop))))


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    main()
