"""``--loop.precision auto`` and ``--loop.channels_last auto`` become what a run computes in, once in its life."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
import yaml

from mcl.config.base import Command, dump
from mcl.config.saved import with_absolute_paths
from mcl.engine.checkpoint import load_checkpoint
from mcl.engine.logging import console
from mcl.engine.machine.memory import reset_peak
from mcl.engine.machine.precision import Format, format_of, formats_for, is_free, try_formats, with_format
from mcl.engine.machine.remembered import Memory
from mcl.engine.processes.distributed import all_reduce_mean, broadcast_object, is_main, process_count
from mcl.engine.run_folder import CONFIG, RunFolder

S = TypeVar("S", bound=Command)
LEAST_STEPS = 50  # of a run that makes a trial


def precision_of_run(settings: S, folder: RunFolder) -> S:
    """The settings with what a resumed run's ``auto`` has become; for a new run as they are.

    (The loop may be paced otherwise when resuming; number format and layout must stay for equal results.)
    """
    if not settings.resume or not is_free(settings.loop):
        return settings
    then = load_checkpoint(folder.checkpoint, tensors=False).get("config") or folder.config
    saved, default = (yaml.safe_load(then or "") or {}).get("loop", {}), format_of(settings.loop)
    precision, channels_last = (
        before if set_now == "auto" and before != "auto" else otherwise
        for set_now, before, otherwise in (
            (settings.loop.precision, saved.get("precision", "auto"), default.precision),
            (settings.loop.channels_last, saved.get("channels_last", "auto"), default.channels_last),
        )
    )
    return with_format(settings, Format(precision, channels_last))


def settle_precision(
    settings: S,
    folder: RunFolder,
    device: torch.device,
    build: Callable[[Format], Callable[[], Any]],
    recipe: Mapping[str, Any],
    steps: int,
) -> S:
    """The settings with ``loop.precision`` and ``loop.channels_last`` as they will be used.

    What ``auto`` becomes is what this machine has chosen for the recipe before, or what a trial finds now; runs that
    are too short for one compute in the default. It is told, and written to ``config.yaml``, where a resumed run
    finds it (``precision_of_run``).

    Args:
        build: gives a function that does one training step in a format, with weights of its own.
        recipe: whatever besides the loop decides how long a step takes: the choice is remembered for it.
        steps: of the run.

    Raises:
        OutOfMemory: not one step fits the memory.
    """
    if not is_free(settings.loop):
        return settings
    formats = formats_for(settings.loop)
    memory = Memory(recipe, settings.loop, device, process_count())
    if choice := broadcast_object(memory.find):
        chosen, told = choice.format, str(choice)
    elif steps < LEAST_STEPS:
        chosen, told = formats[0], f"takes {formats[0]}: {steps} steps are too few for a trial"
    else:
        trial = try_formats(build, formats, device, agree=_mean, steps=steps)
        reset_peak(device)  # what a run needed shall not count what its trial needed
        chosen, told = trial.chosen.format, str(trial)
        if is_main() and not trial.was_too_short:
            memory.keep(trial)
    return settled(settings, folder, chosen, told)


def settled(settings: S, folder: RunFolder, chosen: Format, told: str) -> S:
    """The settings in a format, which is told and written down."""
    console.print(f"precision: {told}", markup=False)
    settings = with_format(settings, chosen)
    folder.write_text(CONFIG, dump(with_absolute_paths(settings)))
    return settings


def _mean(number: float) -> float:
    """Of all processes: they must try, and choose, the same."""
    return float(all_reduce_mean(torch.tensor(number, dtype=torch.float64)))
