"""How fast a step is in each number format, and whether the loader keeps up with it."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from mcl.bench.loading import loader_rate
from mcl.bench.tables import Table
from mcl.checkup.finding import Finding
from mcl.config.doctor import DoctorSettings
from mcl.config.optim import LoopSettings
from mcl.data.loading.dataset import UnlabeledImages
from mcl.data.loading.views import ViewMaker
from mcl.engine.machine.memory import usable_cores
from mcl.engine.machine.precision import Trial, format_of, formats_for
from mcl.engine.machine.remembered import Memory
from mcl.errors import RunFailed
from mcl.methods.build import wanted_of
from mcl.methods.step import try_recipe, what_takes_time

PRECISION_COLUMNS = {
    "what": ("number format", "{}"), "seconds": ("a step", "{:.3f} s"), "images_per_second": ("images/s", "{:.1f}"),
    "note": ("", "{}"),
}  # fmt: skip
LOADER_COLUMNS = {
    "workers": ("workers", "{}"), "images_per_second": ("images/s", "{:.1f}"), "share": ("of what a step takes", "{:.0%}"),
}  # fmt: skip
FREE = LoopSettings(precision="auto", channels_last="auto")
SPARE = 1.1  # times what a step takes: the loader keeps up


def check_precision(settings: DoctorSettings, device: torch.device, batch: int) -> Finding:
    """A trial of number formats and layouts at ``batch`` images, against what is set.

    Where nothing is set, runs of the recipe on this machine take what it has chosen.
    """
    fitting = settings.model_copy(update={"batch": batch})
    try:
        trial = try_recipe(fitting, device, list(dict.fromkeys([*formats_for(FREE), format_of(settings.loop)])))
    except RunFailed as error:
        return Finding("precision", Table("Precision", PRECISION_COLUMNS), "", [str(error)])
    rows = [
        {"what": str(tried.format), "seconds": tried.seconds, "note": tried.note or None,
         "images_per_second": batch / tried.seconds if tried.seconds else None}
        for tried in trial.tried
    ]  # fmt: skip
    chosen, allowed = trial.chosen, formats_for(settings.loop)
    if allowed == formats_for(FREE):
        Memory(what_takes_time(fitting), settings.loop, device).keep(trial)
    own = " or ".join(map(str, allowed))
    verdict = (
        f"auto takes {chosen.format}" if chosen.format in allowed else f"{own} is set, auto would take {chosen.format}"
    )
    warnings = [f"{verdict}: {advice}"] if (advice := _advice(settings, trial)) else []
    title = f"Precision: a step of {batch} images ({trial.seconds:.0f} s of trial)"
    numbers = {"batch": batch, "images_per_second": batch / chosen.seconds, "chosen": str(chosen.format)}
    return Finding("precision", Table(title, PRECISION_COLUMNS, rows), verdict, warnings, numbers)


def _advice(settings: DoctorSettings, trial: Trial) -> str:
    chosen, allowed = trial.chosen, formats_for(settings.loop)
    if chosen.format in allowed:
        return ""
    times = [tried.seconds for tried in trial.tried if tried.format in allowed and tried.seconds is not None]
    flags = f"--loop.precision {chosen.format.precision} --loop.channels_last {str(chosen.format.channels_last).lower()}"
    if not times:
        return f"the format that is set is slow or cannot run here; {flags}"
    faster = min(times) / chosen.seconds
    return f"{faster:.2f} times as fast; {flags}" if faster > 1 else ""


def check_loader(settings: DoctorSettings, paths: list[Path], needed: float | None, picture: str) -> Finding:
    """images/s of the loader with one worker and with the recipe's, against what steps consume.

    Args:
        paths: images to load.
        needed: images/s that steps take; None if not known.
        picture: what the images are, for the title.
    """
    # As in the first pass of a run: what is kept in memory (views.cache_gb) only helps from the second on.
    views = settings.views.model_copy(update={"cache_gb": 0.0})
    maker = ViewMaker(views, wanted_of(settings), settings.seed)
    dataset, set_to = UnlabeledImages(paths, maker), settings.loop.workers
    rates = {workers: loader_rate(dataset, workers) for workers in sorted({1, max(1, set_to)})}
    rows = [
        {"workers": workers, "images_per_second": rate, "share": rate / needed if needed else None}
        for workers, rate in rates.items()
    ]
    rate, one = rates[max(1, set_to)], rates[1]
    numbers = {"rates": rates, "needed": needed}
    table = Table(f"Loader: {picture}", LOADER_COLUMNS, rows)
    if needed is None:
        return Finding("loader", table, f"{rate:.1f} images/s; what a step takes is not known", [], numbers)
    busy = f"steps take {needed:.1f} images/s, which keep {needed / one:.2f} of a core busy with loading"
    if set_to and rate >= SPARE * needed:
        return Finding("loader", table, f"the loader keeps up: {busy}", [], numbers)
    return Finding("loader", table, "", [f"{busy}; {_more_workers(set_to, needed / one)}"], numbers)


def _more_workers(set_to: int, cores_needed: float) -> str:
    least, cores = math.ceil(SPARE * cores_needed), usable_cores()
    if not set_to:
        return f"--loop.workers 0 loads between steps: --loop.workers {max(1, least)}"
    if set_to < least <= cores:
        return f"the loader is the bottleneck: --loop.workers {least}"
    why = f"{cores} cores are too few for it" if least > cores else "more workers do not help (disk or cores are busy)"
    return f"the loader is the bottleneck, and {why}: store the images smaller"
