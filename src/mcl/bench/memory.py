"""Peak memory of a training step: on a CPU in a process of its own, on a GPU from CUDA's allocator."""

from __future__ import annotations

import json
import subprocess
import sys

import torch

from mcl.config.base import from_dump
from mcl.config.bench import BenchStepSettings
from mcl.engine.machine.allocator import freed_memory_kept
from mcl.engine.machine.device import prepare_device
from mcl.engine.machine.memory import peak_bytes, reset_peak, used_bytes
from mcl.errors import RunFailed
from mcl.methods.step import TrainingStep

STEPS = 2  # the optimizer's state appears in the first


def step_memory(settings: BenchStepSettings, side: str, device: torch.device) -> dict[str, float]:
    """``{"process_mb", "model_mb", "peak_mb"}``: of the process before and after the model is built, and what steps
    need on top at their peak; ``side`` names the settings in errors."""
    if device.type == "cuda":
        return _measure(settings, device)
    request = json.dumps(settings.model_dump(mode="json", by_alias=True))
    done = subprocess.run(
        [sys.executable, "-m", "mcl.bench.memory"], input=request, capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RunFailed(f"memory of {side} could not be measured (out of memory?): {reason}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _measure(settings: BenchStepSettings, device: torch.device) -> dict[str, float]:
    process = used_bytes(device)
    step = TrainingStep(settings, device)
    reset_peak(device)
    before = peak_bytes(device)
    for _ in range(STEPS):
        step()
    return {
        "process_mb": round(process / 2**20, 1),
        "model_mb": round(before / 2**20, 1),
        "peak_mb": round((peak_bytes(device) - before) / 2**20, 1),
    }


def main() -> None:
    """Read a request from stdin, print the answer."""
    settings = from_dump(BenchStepSettings, json.load(sys.stdin))
    with freed_memory_kept(settings.loop.keep_memory):
        print(json.dumps(_measure(settings, prepare_device(settings.loop))))


if __name__ == "__main__":
    main()
