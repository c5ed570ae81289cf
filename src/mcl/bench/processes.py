"""``mcl bench scale --measure``: training steps on several processes of this machine, timed."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from mcl.bench.exchanges import exchange_shares
from mcl.bench.measure import in_turn, waiter
from mcl.bench.tables import Table
from mcl.config.base import from_values
from mcl.config.bench import BenchScaleSettings
from mcl.engine.machine.allocator import freed_memory_kept
from mcl.engine.machine.device import device_type, prepare_device
from mcl.engine.processes.distributed import all_reduce_mean, is_main, per_process, process_count
from mcl.engine.processes.gradients import GradientAverage
from mcl.engine.processes.job import joined
from mcl.errors import RunFailed
from mcl.methods.step import TrainingStep
from mcl.nn.sync_norm import synchronise_norms

STEP = "training step"
COLUMNS = {
    "processes": ("processes", "{}"), "share": ("images each", "{}"), "threads": ("threads each", "{}"),
    "step": ("step", "{:.1f} ms"), "images_per_second": ("images/s", "{:.1f}"), "exchange": ("in exchanges", "{:.0%}"),
    "calls": ("exchanges a step", "{:.0f}"), "ratio": ("against the first", "{:.2f}"),
}  # fmt: skip


def measured_table(settings: BenchScaleSettings) -> Table:
    """Steps of the recipe's whole batch on each number of processes of ``--measure``, one after the other.

    Raises:
        RunFailed: the processes fail; with the last line that they printed.
    """
    rows = [_launch(settings, count) for count in settings.measure]
    for row in rows:
        row["ratio"] = row["images_per_second"] / rows[0]["images_per_second"]
    norms = "joint" if settings.loop.sync_bn else "each process's own"
    return Table(
        f"Measured: {settings.model.backbone}, {settings.image_size} px, batch {settings.batch}",
        COLUMNS, rows,
        [
            f"medians of {settings.measure_steps} steps on random tiles; BatchNorm statistics: {norms}; in exchanges: share of "
            "the step in which rank 0 sends, receives or waits for the others and computes nothing"
        ],
    )  # fmt: skip


def _launch(settings: BenchScaleSettings, count: int) -> dict[str, Any]:
    threads = settings.loop.threads or max(1, len(os.sched_getaffinity(0)) // count)
    loop = settings.loop.model_copy(update={"threads": threads})
    with tempfile.TemporaryDirectory(prefix="mcl-bench-") as folder:
        request = write_request(settings.model_copy(update={"loop": loop}), Path(folder))
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count),
             "-m", "mcl.bench.processes", str(request)],
            capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )  # fmt: skip
        answer = request.with_suffix(".answer")
        if done.returncode or not answer.exists():
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            told = next((line for line in lines if "Error" in line or "error" in line), "no message")
            raise RunFailed(f"{count} processes could not be measured: {told.strip()[:200]}")
        return json.loads(answer.read_text("utf-8"))


def write_request(settings: BenchScaleSettings, folder: Path) -> Path:
    """What ``main`` reads in each of the processes."""
    request = folder / "request.json"
    request.write_text(json.dumps(settings.model_dump(mode="json", by_alias=True)), "utf-8")
    return request


def measure_rank(settings: BenchScaleSettings) -> dict[str, Any]:
    """Time steps as one of the processes; returns a row of the table."""
    share = per_process(settings.batch)
    device = prepare_device(settings.loop)
    step = TrainingStep(settings.model_copy(update={"batch": share}), device)
    if settings.loop.sync_bn and process_count() > 1:
        synchronise_norms(step.method, device.type)
    step.average = GradientAverage(step.method.trained.parameters())
    with freed_memory_kept(settings.loop.keep_memory):
        timing = in_turn({STEP: step}, settings.measure_steps, wait=waiter(device))[STEP]
        shares, calls = zip(*_profiled(step, settings.measure_steps, device), strict=True)
    median = float(all_reduce_mean(torch.tensor(timing.median, dtype=torch.float64)))
    return {
        "processes": process_count(), "share": share, "threads": settings.loop.threads, "step": 1e3 * median,
        "images_per_second": settings.batch / median, "exchange": statistics.median(shares),
        "calls": statistics.median(calls),
    }  # fmt: skip


def _profiled(step: TrainingStep, count: int, device: torch.device) -> list[tuple[float, int]]:
    """(share of time in exchanges, exchanges) of so many steps, which are none of those that are timed."""
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    wait = waiter(device)
    with profile(activities=kinds) as profiler:
        for _ in range(count):
            with record_function(STEP):
                step()
                wait()
    return exchange_shares(profiler.events(), STEP)


def main(request: Path) -> None:
    """Run as one of the processes that ``_launch`` starts; rank 0 writes the answer beside the request."""
    settings = from_values(BenchScaleSettings, json.loads(request.read_text("utf-8")))
    with joined(device_type(settings.loop)):
        row = measure_rank(settings)
        if is_main():
            request.with_suffix(".answer").write_text(json.dumps(row), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
