"""Peak memory of a training step: on a CPU in a process of its own, on a GPU from CUDA's allocator."""

from __future__ import annotations

import json
import subprocess
import sys

import torch

from mcl.bench.step import variants_of
from mcl.config.bench import BenchStepSettings
from mcl.engine.machine.allocator import freed_memory_kept
from mcl.engine.machine.device import prepare_device
from mcl.engine.machine.memory import peak_bytes, reset_peak, used_bytes
from mcl.errors import RunFailed
from mcl.methods.step import TrainingStep

STEPS = 2  # the optimizer's state appears in the first


def step_memory(settings: BenchStepSettings, variant: str, device: torch.device) -> dict[str, float]:
    """``{"process_mb", "model_mb", "peak_mb"}``: of the process before and after the model is built, and what steps
    need on top at their peak."""
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
    process = used_bytes(device)
    step = TrainingStep(variants_of(settings)[variant], device)
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
    request = json.load(sys.stdin)
    settings = BenchStepSettings(**request["settings"])
    with freed_memory_kept(settings.loop.keep_memory):
        print(json.dumps(_measure(settings, request["variant"], prepare_device(settings.loop))))


if __name__ == "__main__":
    main()
