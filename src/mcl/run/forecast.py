"""``--dry_run``: what a training would be, and about what it would cost here. Nothing is written."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from mcl.config.base import Command, dump
from mcl.engine.logging import console, duration
from mcl.engine.machine.memory import peak_bytes, reset_peak
from mcl.studies.tables import flops as in_words

TIMED = 3  # steps, after one that is not counted


@dataclass(frozen=True)
class Forecast:
    """What was counted and measured; ``memory_mb`` is the peak of this process (on a GPU: of torch on it)."""

    steps: int
    images: int
    flops_a_step: int
    seconds_a_step: float
    memory_mb: float

    @property
    def seconds(self) -> float:
        """Of all steps, without loading and measuring."""
        return self.steps * self.seconds_a_step


def forecast(settings: Command, step: Callable[[], Any], steps: int, batch: int, device: torch.device) -> dict[str, Any]:
    """Print the resolved settings and the cost of ``steps`` training steps; returns it.

    Args:
        step: does one training step, on weights of its own.
        batch: images of a step on this process, for images/s.
    """
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    with FlopCounterMode(display=False) as counter:
        step()
    reset_peak(device)
    seconds = []
    for _ in range(TIMED):
        wait()
        began = time.perf_counter()
        step()
        wait()
        seconds.append(time.perf_counter() - began)
    found = Forecast(
        steps, steps * batch, int(counter.get_total_flops()), statistics.median(seconds), round(peak_bytes(device) / 2**20, 1)
    )
    _show(settings, found, batch)
    return {"dry_run": True, **asdict(found), "seconds": found.seconds, "settings": settings.model_dump(mode="json")}


def _show(settings: Command, found: Forecast, batch: int) -> None:
    console.print(dump(settings).rstrip())
    console.print()
    console.print(f"steps    {found.steps:,} of {batch} images ({found.images:,} in all)")
    console.print(f"FLOPs    {in_words(found.flops_a_step)} a step, {in_words(found.flops_a_step * found.steps)} in all (counted)")
    console.print(f"memory   {found.memory_mb:,.0f} MB at the peak of a step (measured)")
    rate = batch / found.seconds_a_step
    console.print(f"time     about {duration(found.seconds)}: {found.seconds_a_step:.3f} s a step, {rate:.1f} images/s (measured; without loading)")
    console.print("nothing was written; leave --dry_run out to start")

