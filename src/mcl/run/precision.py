"""``--loop.precision auto`` becomes fp32 or bf16, once in a run's life."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import yaml

from mcl.config.base import Command, dump
from mcl.config.saved import with_absolute_paths
from mcl.engine.logging import console
from mcl.engine.machine.memory import reset_peak
from mcl.engine.machine.precision import Format, formats_for, try_formats, with_format
from mcl.engine.processes.distributed import all_reduce_mean
from mcl.engine.run_folder import CONFIG, RunFolder

S = TypeVar("S", bound=Command)


def precision_of_run(settings: S, folder: RunFolder) -> S:
    """The settings with what a resumed run's ``auto`` has become; for a new run as they are.

    (The loop may be paced otherwise when resuming; the number format must stay for equal results.)
    """
    if not settings.resume or settings.loop.precision != "auto":
        return settings
    saved = (yaml.safe_load(folder.config or "") or {}).get("loop", {})
    if saved.get("precision", "auto") == "auto":
        return settings
    return with_format(settings, Format(saved["precision"], saved["channels_last"]))


def settle_precision(
    settings: S, folder: RunFolder, device: torch.device, build: Callable[[Format], Callable[[], Any]]
) -> S:
    """The settings with ``loop.precision`` and ``loop.channels_last`` as they will be used.

    A run with ``auto`` makes the trial and writes the choice to its ``config.yaml``, where a resumed one finds it
    (``precision_of_run``).

    Args:
        build: gives a function that does one training step in a format, with weights of its own.

    Raises:
        RunFailed: not one step fits the GPU's memory.
    """
    if settings.loop.precision != "auto":
        return settings
    trial = try_formats(build, formats_for(settings.loop.channels_last), device, agree=_mean)
    reset_peak(device)  # what a run needed shall not count what its trial needed
    console.print(f"precision: {trial}", markup=False)
    settled = with_format(settings, trial.chosen.format)
    folder.write_text(CONFIG, dump(with_absolute_paths(settled)))
    return settled


def _mean(number: float) -> float:
    """Of all processes: they must try, and choose, the same."""
    return float(all_reduce_mean(torch.tensor(number, dtype=torch.float64)))
