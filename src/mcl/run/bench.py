"""``mcl bench step | data | loop | scale``: what training costs, measured side by side (scale: computed)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, TypeVar

import torch

from mcl.bench.compare import compare_steps
from mcl.bench.loader_parts import part_rows, part_table
from mcl.bench.loading import decode_rows, decode_table, loader_rows, loader_table, size_of
from mcl.bench.measure import waiter
from mcl.bench.overhead import loop_shares, loop_table
from mcl.bench.pictures import write_pictures
from mcl.bench.processes import measured_table
from mcl.bench.scale import scale_table
from mcl.bench.stopwatch import Stopwatch
from mcl.bench.tables import publish
from mcl.config.bench import (
    BenchDataSettings,
    BenchLoopSettings,
    BenchScaleSettings,
    BenchSettings,
    BenchStepSettings,
)
from mcl.config.optim import ScheduleSettings
from mcl.data.sources.find import find_images
from mcl.engine.logging import console
from mcl.engine.machine.allocator import freed_memory_kept
from mcl.engine.machine.device import prepare_device
from mcl.engine.machine.precision import is_free, with_format
from mcl.errors import about
from mcl.methods.step import try_recipe
from mcl.run.pretrain import pretrain

HALF_MEGAPIXEL = 500_000
R = TypeVar("R", bound=BenchSettings)


def bench_step(settings: BenchStepSettings) -> dict[str, Any]:
    """Time a training step of each way to compute the loss, each in its best layout; returns what ``--json`` holds.

    Raises:
        RunFailed: the encodings do not compute the same loss.
        UserError: a baseline is asked for and lightly is not installed.
    """
    device = prepare_device(settings.loop)
    with freed_memory_kept(settings.loop.keep_memory):
        tables, raw = compare_steps(settings, device)
    return publish("step", tables, settings, raw)


def bench_data(settings: BenchDataSettings) -> dict[str, Any]:
    """Time the loader and decoding on generated JPEGs, or on ``--data``; returns what ``--json`` holds."""
    device = prepare_device(settings.loop)
    loaded, decoded = [], []
    with (
        tempfile.TemporaryDirectory(prefix="mcl-bench-") as folder,
        freed_memory_kept(settings.loop.keep_memory),
    ):
        settings = _with_tried_format(settings, device) if settings.step else settings
        sets = {size_of(paths): paths for paths in _picture_sets(settings, Path(folder))}
        parts = part_rows(settings, sets, device)
        for picture, paths in sets.items():
            loaded += loader_rows(settings, paths, picture)
            decoded += decode_rows(settings, paths, picture)
    tables = [loader_table(loaded, settings), decode_table(decoded), part_table(parts, settings)]
    return publish("data", [table for table in tables if table.rows], settings)


def bench_loop(settings: BenchLoopSettings) -> dict[str, Any]:
    """Pre-train for a few steps as ``mcl pretrain`` does and tell where the time went; returns what ``--json`` holds."""
    stopwatch = Stopwatch(waiter(prepare_device(settings.loop)))
    with tempfile.TemporaryDirectory(prefix="mcl-bench-") as folder:
        data = settings.data
        if data is None:
            data = Path(folder) / "data"
            write_pictures(data, settings.images, 500, 375)
        schedule = ScheduleSettings(
            **{**settings.schedule.model_dump(), "epochs": None, "steps": settings.steps}
        )
        pretrain(settings.pretrain(data, Path(folder) / "run", schedule=schedule), observe=stopwatch)
    shares = loop_shares(stopwatch, settings.skip, settings.loop.checkpoint_every)
    title = (
        f"Loop: {settings.steps - settings.skip} steps of {settings.batch} images, {settings.model.backbone}, "
        f"{settings.image_size} px, {settings.loop.workers} worker(s)"
    )
    return publish("loop", [loop_table(shares, title)], settings)


def bench_scale(settings: BenchScaleSettings) -> dict[str, Any]:
    """Compute what a step costs on many GPUs, or time it on processes here; returns what ``--json`` holds."""
    if settings.measure:
        return publish("processes", [measured_table(settings)], settings)
    table, counted = scale_table(settings)
    return publish("scale", [table], settings, {"counted": counted})


def _with_tried_format(settings: R, device: torch.device) -> R:
    """Number format and layout, where they are free, as a trial chooses."""
    if not is_free(settings.loop):
        return settings
    trial = try_recipe(settings, device)
    console.print(f"precision: {trial}", markup=False)
    return with_format(settings, trial.chosen.format)


def _picture_sets(settings: BenchDataSettings, folder: Path) -> list[list[Path]]:
    """Sets of files to measure on; fewer of large pictures, so that each set takes about as long."""
    if settings.data is not None:
        with about("--data"):
            return [find_images(settings.data)[: settings.images]]
    sets = []
    for size in settings.sizes:
        width, height = map(int, size.split("x"))
        fewer = max(1.0, width * height / HALF_MEGAPIXEL) ** 0.5
        count = max(8, round(settings.images / fewer))
        sets.append(write_pictures(folder / size, min(count, settings.images), width, height))
    return sets
