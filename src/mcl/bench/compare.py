"""``mcl bench step``: all sides timed in turn, with FLOPs, floor and memory."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import torch

from mcl.bench.components import time_components
from mcl.bench.measure import Timing, in_turn, waiter
from mcl.bench.memory import step_memory
from mcl.bench.step import (
    BF16,
    PLAIN,
    BackboneStep,
    baselines_of,
    best_layout,
    check_same_losses,
    in_bf16,
    variant_name,
    variants_of,
)
from mcl.bench.tables import Table
from mcl.config.bench import BenchStepSettings
from mcl.errors import OutOfMemory
from mcl.methods.flops import step_flops
from mcl.methods.step import TrainingStep

FLOOR = "bare backbone"
COMPONENT_ROUNDS = 3

# Two tables of the same rows: together they are wider than a terminal.
TIME_COLUMNS = {
    "side": ("one step", "{}"),
    "format": ("format", "{}"),
    "seconds": ("median", "{:.3f} s"),
    "spread": ("spread", "{:.0%}"),
    "speedup": ("faster", "{:.2f}x"),
}
WORK_COLUMNS = {
    "side": ("one step", "{}"),
    "gflop": ("GFLOP", "{:.1f}"),
    "gflops": ("GFLOP/s", "{:.1f}"),
    "over_floor": ("of its floor", "{:.2f}x"),
    "peak_mb": ("peak memory", "{:.0f} MB"),
    "model_mb": ("before a step", "{:.0f} MB"),
}
COMPONENT_COLUMNS = {
    "side": ("step", "{}"), "part": ("part", "{}"), "gflop": ("GFLOP", "{:.2f}"), "share": ("FLOPs", "{:.1%}"),
    "seconds": ("time", "{:.4f} s"), "time_share": ("of the step", "{:.1%}"), "gflops": ("GFLOP/s", "{:.1f}"),
}  # fmt: skip


def compare_steps(settings: BenchStepSettings, device: torch.device) -> tuple[list[Table], dict[str, Any]]:
    """Measure; returns the tables, and what else goes into the JSON.

    A side that is too large for the memory is left out, and said to be.

    Raises:
        RunFailed: the ways to compute the loss do not agree.
        OutOfMemory: not even the recipe's own way fits.
        UserError: there is no such baseline, or a library that it needs is not installed.
    """
    variants, own = variants_of(settings), variant_name(settings)
    sides = {**variants, **in_bf16(settings, device), **baselines_of(settings)}
    formats, too_large = {}, {}
    if settings.best_layout:
        for name, side in list(sides.items()):
            try:
                sides[name], formats[name] = best_layout(side, device)
            except OutOfMemory as error:
                del sides[name]
                too_large[name] = str(error)
    if own in too_large:
        raise OutOfMemory(too_large[own])
    variants = {name: side for name, side in variants.items() if name in sides}
    formats[FLOOR] = formats.get(own, "")
    # Before this process holds the networks too.
    memory = {name: step_memory(side, name, device) for name, side in sides.items()} if settings.memory else {}
    flops = {name: step_flops(side) for name, side in sides.items()}
    steps = {name: TrainingStep(side, device) for name, side in sides.items()}
    losses = check_same_losses({name: steps[name] for name in variants})
    actions = {name: steps[name] for name in variants} | {FLOOR: BackboneStep(steps[own])}
    actions |= {name: steps[name] for name in sides if name not in variants}
    wait = waiter(device)
    timings = in_turn(actions, settings.rounds, settings.warmup, wait)
    totals = {name: sum(components.values()) for name, components in flops.items()}
    totals[FLOOR] = flops[own]["backbone"]
    tables = _step_tables(settings, device, timings, totals, memory, formats)
    if too_large:
        tables[0].notes.append(f"too large for the memory, and left out: {', '.join(too_large)}")
    if settings.parts:
        seconds = {
            name: _component_seconds(step, wait) for name, step in steps.items() if not name.endswith(PLAIN)
        }
        tables.append(_component_table(flops, seconds))
    raw = {"too_large": list(too_large), "losses": losses, "seconds": {name: timing.seconds for name, timing in timings.items()}}
    return tables, raw


def _step_tables(
    settings: BenchStepSettings,
    device: torch.device,
    timings: Mapping[str, Timing],
    totals: Mapping[str, int],
    memory: Mapping[str, Mapping[str, float]],
    formats: Mapping[str, str],
) -> list[Table]:
    floor_rate, variants = totals[FLOOR] / timings[FLOOR].median, variants_of(settings)
    plainest = timings.get(next(iter(variants)))
    rows = []
    for name, timing in timings.items():
        ours = name in variants or name.endswith(BF16)
        rows.append({
            "side": name, "format": formats.get(name) or None, "seconds": timing.median, "spread": timing.spread,
            "speedup": plainest.median / timing.median if ours and plainest else None,
            "gflop": totals[name] / 1e9, "gflops": totals[name] / timing.median / 1e9,
            "over_floor": timing.median / (totals[name] / floor_rate) if ours else None,
            **memory.get(name, {}),
        })  # fmt: skip
    title = (
        f"Training step: {settings.method.name}, {settings.model.backbone}, {settings.image_size} px, {settings.batch} images, "
        f"{device.type}"
    )
    timing_notes = [
        f"medians of {settings.rounds} steps in turn; spread: (slowest - fastest) / median; the losses agree "
        "(BatchNorm in eval mode)"
    ]
    work_notes = ["of its floor: time over its FLOPs at the bare backbone's FLOP/s"]
    if memory:
        work_notes.append("peak memory: what steps need on top of the built model and its process (before a step)")
    return [
        Table(title, TIME_COLUMNS, rows, timing_notes),
        Table("Its work and memory", WORK_COLUMNS, rows, work_notes),
    ]


def _component_table(
    flops: Mapping[str, Mapping[str, int]], seconds: Mapping[str, Mapping[str, float]]
) -> Table:
    rows = []
    for side, components in seconds.items():
        total, all_flops = sum(components.values()), sum(flops[side].values())
        for name, time in components.items():
            count = flops[side].get(name, 0)
            rows.append({
                "side": side, "part": name, "gflop": count / 1e9, "share": count / all_flops, "seconds": time,
                "time_share": time / total, "gflops": count / time / 1e9 if count and time else None,
            })  # fmt: skip
    notes = ["rest: views, logits and loss, clipping, EMA; timed in steps of their own, forward and backward"]
    return Table("Parts of a step", COMPONENT_COLUMNS, rows, notes)


def _component_seconds(step: TrainingStep, wait) -> dict[str, float]:
    components = step.method.components()
    rounds = [time_components(components, step, step.optimizer, wait) for _ in range(COMPONENT_ROUNDS)]
    return {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}
