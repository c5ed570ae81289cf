"""``mcl bench scale --measure``: training steps on several processes of this machine, timed."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mcl.bench.measure import waiter
from mcl.bench.step import TrainingStep
from mcl.bench.stopwatch import Event, Stopwatch
from mcl.bench.tables import Table
from mcl.config.bench import BenchScaleSettings
from mcl.engine.machine.allocator import freed_memory_kept
from mcl.engine.machine.device import device_type, prepare_device
from mcl.engine.processes.distributed import all_reduce_mean, is_main, per_process, process_count
from mcl.engine.processes.gradients import GradientAverage
from mcl.engine.processes.job import joined
from mcl.errors import RunFailed
from mcl.nn.sync_norm import synchronise_norms

STEP, BACKWARD, EXCHANGE = "step", "backward", "exchange"
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
            "the step in which rank 0 sends, receives or waits for the others"
        ],
    )  # fmt: skip


def _launch(settings: BenchScaleSettings, count: int) -> dict[str, Any]:
    threads = settings.loop.threads or max(1, len(os.sched_getaffinity(0)) // count)
    loop = settings.loop.model_copy(update={"threads": threads})
    with tempfile.TemporaryDirectory(prefix="mcl-bench-") as folder:
        request = Path(folder) / "request.json"
        content = settings.model_copy(update={"loop": loop}).model_dump(mode="json", by_alias=True)
        request.write_text(json.dumps(content), "utf-8")
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


def measure_rank(settings: BenchScaleSettings) -> dict[str, Any]:
    """Time steps as one of the processes; returns a row of the table."""
    share = per_process(settings.batch)
    device = prepare_device(settings.loop)
    step = TrainingStep(settings.model_copy(update={"batch": share}), device)
    if settings.loop.sync_bn and process_count() > 1:
        synchronise_norms(step.method, device.type)
    step.average = GradientAverage(step.method.trained.parameters())
    stopwatch = Stopwatch(
        [
            (TrainingStep, "__call__", STEP),
            (dist, "all_reduce", EXCHANGE),
            (dist, "all_gather", EXCHANGE),
            (torch.Tensor, "backward", BACKWARD),
        ],
        waiter(device),
    )
    filled = _times_of_gradients(step.method.trained)
    with stopwatch, freed_memory_kept(settings.loop.keep_memory):
        for _ in range(1 + settings.measure_steps):  # the first one gets memory
            step()
    if process_count() > 1:
        _add_waits_for_gradients(stopwatch, filled)
    shares, calls, seconds = [], [], []
    for timed in stopwatch.of(STEP)[1:]:
        inside = [e for e in stopwatch.of(EXCHANGE) if timed.start <= e.start and e.end <= timed.end]
        seconds.append(timed.end - timed.start)
        shares.append(sum(e.end - e.start for e in inside) / seconds[-1])
        calls.append(len(inside))
    median = float(all_reduce_mean(torch.tensor(statistics.median(seconds), dtype=torch.float64)))
    return {
        "processes": process_count(), "share": share, "threads": settings.loop.threads, "step": 1e3 * median,
        "images_per_second": settings.batch / median, "exchange": statistics.median(shares),
        "calls": statistics.median(calls),
    }  # fmt: skip


def _times_of_gradients(module: torch.nn.Module) -> list[float]:
    """Filled with the moment of every gradient that a backward makes."""
    times: list[float] = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda _: times.append(time.perf_counter()))
    return times


def _add_waits_for_gradients(stopwatch: Stopwatch, filled: list[float]) -> None:
    """DDP waits inside backward: from the last gradient to the end."""
    for event in stopwatch.of(BACKWARD):
        last = max((moment for moment in filled if event.start <= moment <= event.end), default=event.end)
        stopwatch.events.append(Event(EXCHANGE, last, event.end))


def main(request: Path) -> None:
    """Run as one of the processes that ``_launch`` starts; rank 0 writes the answer beside the request."""
    settings = BenchScaleSettings(**json.loads(request.read_text("utf-8")))
    with joined(device_type(settings.loop)):
        row = measure_rank(settings)
        if is_main():
            request.with_suffix(".answer").write_text(json.dumps(row), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
