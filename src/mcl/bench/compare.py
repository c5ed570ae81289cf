"""``mcl bench step``: all sides timed in turn, with FLOPs, floor and memory."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from mcl.bench.baselines import CLASSES, Baseline
from mcl.bench.measure import Timing, in_turn, waiter
from mcl.bench.memory import step_memory
from mcl.bench.parts import parts_of, time_parts
from mcl.bench.step import (
    EXHAUSTIVE,
    MATCHED_ALL,
    PLAIN,
    BackboneStep,
    check_same_losses,
    step_flops,
    variants_of,
)
from mcl.bench.tables import Table
from mcl.config.bench import BenchStepSettings
from mcl.data.loading.views import VIEWS
from mcl.methods.mcl.montage import normalise
from mcl.methods.step import TrainingStep, random_batch
from mcl.nn.trunk import IMAGENET_MEAN, IMAGENET_STD

FLOOR = "bare backbone"
PART_ROUNDS = 3

# Two tables of the same rows: together they are wider than a terminal.
TIME_COLUMNS = {
    "side": ("one step", "{}"),
    "seconds": ("median", "{:.3f} s"),
    "spread": ("spread", "{:.0%}"),
    "speedup": ("faster", "{:.2f}x"),
    "seconds_per_image": ("an image", "{:.5f} s"),
}
WORK_COLUMNS = {
    "side": ("one step", "{}"),
    "gflop": ("GFLOP", "{:.1f}"),
    "gflops": ("GFLOP/s", "{:.1f}"),
    "over_floor": ("of its floor", "{:.2f}x"),
    "peak_mb": ("peak memory", "{:.0f} MB"),
    "model_mb": ("before a step", "{:.0f} MB"),
}
PART_COLUMNS = {
    "side": ("step", "{}"), "part": ("part", "{}"), "gflop": ("GFLOP", "{:.2f}"), "share": ("FLOPs", "{:.1%}"),
    "seconds": ("time", "{:.4f} s"), "time_share": ("of the step", "{:.1%}"), "gflops": ("GFLOP/s", "{:.1f}"),
}  # fmt: skip


def compare_steps(settings: BenchStepSettings, device: torch.device) -> tuple[list[Table], dict[str, Any]]:
    """Measure; returns the tables, and what else goes into the JSON.

    Raises:
        RunFailed: the encodings do not compute the same loss.
        UserError: a baseline is asked for and lightly is not there.
    """
    variants = variants_of(settings)
    baselines = {name: CLASSES[name](settings, device) for name in settings.baselines}
    # Before this process holds the networks too.
    memory = {name: step_memory(settings, name, device) for name in variants} if settings.memory else {}
    flops = {name: step_flops(variant) for name, variant in variants.items()}
    steps = {name: TrainingStep(variant, device) for name, variant in variants.items()}
    losses = check_same_losses(steps)
    images = _views(settings, device)
    actions = {**steps, FLOOR: BackboneStep(steps[MATCHED_ALL])}
    actions |= {name: lambda baseline=b: baseline.step(*images) for name, b in baselines.items()}
    wait = waiter(device)
    timings = in_turn(actions, settings.rounds, settings.warmup, wait)
    totals = {name: sum(parts.values()) for name, parts in flops.items()}
    totals[FLOOR] = flops[MATCHED_ALL]["backbone"]
    totals |= {name: _count_baseline(b, images) for name, b in baselines.items()}
    tables = _step_tables(settings, device, timings, totals, memory)
    if settings.parts:
        seconds = {name: _part_seconds(step, wait) for name, step in steps.items() if name != PLAIN}
        tables.append(_part_table(flops, seconds))
    raw = {"losses": losses, "seconds": {name: timing.seconds for name, timing in timings.items()}}
    return tables, raw


def _step_tables(
    settings: BenchStepSettings,
    device: torch.device,
    timings: Mapping[str, Timing],
    totals: Mapping[str, int],
    memory: Mapping[str, Mapping[str, float]],
) -> list[Table]:
    floor_rate = totals[FLOOR] / timings[FLOOR].median
    rows = []
    for name, timing in timings.items():
        ours = name in variants_of(settings)
        rows.append({
            "side": name, "seconds": timing.median, "spread": timing.spread,
            "speedup": timings[EXHAUSTIVE].median / timing.median if ours else None,
            "seconds_per_image": timing.median / settings.batch,
            "gflop": totals[name] / 1e9, "gflops": totals[name] / timing.median / 1e9,
            "over_floor": timing.median / (totals[name] / floor_rate) if ours else None,
            **memory.get(name, {}),
        })  # fmt: skip
    loop = settings.loop
    layout = "channels_last" if loop.channels_last else "contiguous"
    title = (
        f"Training step: {settings.model.backbone}, {settings.image_size} px, {settings.batch} images, "
        f"scales {settings.method.scales}, {loop.precision}, {layout}, {device.type}"
    )
    timing_notes = [
        f"medians of {settings.rounds} steps in turn; spread: (slowest - fastest) / median; the encodings' losses agree "
        "(BatchNorm in eval mode)"
    ]
    work_notes = ["of its floor: time over its FLOPs at the bare backbone's FLOP/s"]
    if memory:
        work_notes.append("peak memory: what steps need on top of the built model and its process (before a step)")
    return [
        Table(title, TIME_COLUMNS, rows, timing_notes),
        Table("Its work and memory", WORK_COLUMNS, rows, work_notes),
    ]


def _part_table(flops: Mapping[str, Mapping[str, int]], seconds: Mapping[str, Mapping[str, float]]) -> Table:
    rows = []
    for side, parts in seconds.items():
        total, all_flops = sum(parts.values()), sum(flops[side].values())
        for part, time in parts.items():
            count = flops[side].get(part, 0)
            rows.append({
                "side": side, "part": part, "gflop": count / 1e9, "share": count / all_flops, "seconds": time,
                "time_share": time / total, "gflops": count / time / 1e9 if count and time else None,
            })  # fmt: skip
    notes = [
        "rest: montages, logits and loss, clipping, EMA; timed in steps of their own, forward and backward"
    ]
    return Table("Parts of a step", PART_COLUMNS, rows, notes)


def _part_seconds(step: TrainingStep, wait) -> dict[str, float]:
    rounds = [time_parts(parts_of(step.method), step, step.optimizer, wait) for _ in range(PART_ROUNDS)]
    return {part: statistics.median(found[part] for found in rounds) for part in rounds[0]}


def _views(settings: BenchStepSettings, device: torch.device) -> list[torch.Tensor]:
    """Two views of a batch as the baselines take them: the full-size images of the same random batch."""
    tiles = random_batch(settings, device)["tiles"]
    layout = torch.channels_last if settings.loop.channels_last else torch.contiguous_format
    return [
        normalise(tiles[view][1].contiguous(memory_format=layout), IMAGENET_MEAN, IMAGENET_STD, torch.float32)
        for view in VIEWS
    ]


def _count_baseline(baseline: Baseline, images: list[torch.Tensor]) -> int:
    with FlopCounterMode(display=False) as counter:
        baseline.step(*images)
    return int(counter.get_total_flops())
