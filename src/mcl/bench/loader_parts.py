"""``mcl bench data``: what one core pays for a batch, part by part, beside the training step that takes it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch

from mcl.bench.measure import waiter
from mcl.bench.tables import Table
from mcl.config.bench import BenchDataSettings
from mcl.data.loading.dataset import UnlabeledImages, collate_views
from mcl.data.loading.parts import BLURRING, COLOUR, CROP, DECODE, DRAW
from mcl.data.loading.views import ViewMaker
from mcl.methods.build import wanted_of
from mcl.methods.step import TrainingStep

ANEW, KEPT = "anew", "kept"
REST, TOTAL = "rest", "total"
PARTS = (DECODE, DRAW, CROP, COLOUR, BLURRING, REST)
MILLISECONDS = "{:.2f}"
COLUMNS = {
    "what": ("JPEGs", "{}"), **{part: (part, MILLISECONDS) for part in PARTS}, TOTAL: ("all", MILLISECONDS),
    "spread": ("spread", "{:.0%}"), "share": ("of a step", "{:.1%}"),
}  # fmt: skip


class PartClock:
    """Charges this process's CPU time to the innermost part that is going on.

    CPU time, because parts are short: what else runs on the machine would be charged to one of them.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._part, self._last = REST, time.process_time()

    @contextmanager
    def span(self, part: str) -> Iterator[None]:
        """From now on ``part`` goes on, until the block ends."""
        outer = self._part
        self._switch(part)
        try:
            yield
        finally:
            self._switch(outer)

    def take(self) -> dict[str, float]:
        """Seconds of each part since the last call."""
        self._switch(REST)
        taken = {part: self.seconds.pop(part, 0.0) for part in PARTS}
        return {**taken, TOTAL: sum(taken.values())}

    def _switch(self, part: str) -> None:
        now = time.process_time()
        self.seconds[self._part] += now - self._last
        self._part, self._last = part, now


def part_rows(
    settings: BenchDataSettings, sets: Mapping[str, Sequence[Path]], device: torch.device
) -> list[dict]:
    """Milliseconds of each part an image, and their share of a training step, everything in turn.

    Args:
        settings: the recipe; its batch is loaded and trained.
        sets: description -> images.
        device: where the step is computed.
    """
    step = TrainingStep(settings, device) if settings.step else None
    sides = {
        (side, picture): _batches(settings, paths, side == KEPT)
        for picture, paths in sets.items()
        for side in (ANEW, KEPT)
    }
    rounds: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    steps: list[float] = []
    for number in range(settings.rounds + 1):  # the first fills memory, and the room for pictures
        for side, load in sides.items():
            seconds = load(number)
            if number:
                rounds[side].append(seconds)
        if step:
            steps.append(_seconds(step, device))
    seconds_of_step = median(steps[1:]) if steps else None
    return [_row(*side, found, settings.batch, seconds_of_step) for side, found in rounds.items()]


def part_table(rows: list[dict], settings: BenchDataSettings) -> Table:
    """What loading costs."""
    notes = [
        f"milliseconds of CPU time an image, on one thread: medians of {settings.rounds} batches in turn; "
        "spread: (slowest - fastest) / median",
        "of a step: of the time that a training step of the batch takes"
        + (f" on {torch.get_num_threads()} threads (their mean CPU time)" if settings.step else " (not measured)"),
        f"{ANEW}: decoded every time (views.cache_gb 0); {KEPT}: shrunk and kept in memory, after a first pass",
    ]
    title = f"Loading, part by part: batches of {settings.batch} images, {settings.image_size} px"
    return Table(title, COLUMNS, rows, notes)


def _batches(settings: BenchDataSettings, paths: Sequence[Path], kept: bool) -> Callable[[int], dict[str, float]]:
    """What loads batch number n and gives the seconds of its parts; the same images in every batch."""
    views = settings.views.model_copy(update={"cache_gb": float("inf") if kept else 0.0})
    clock = PartClock()
    dataset = UnlabeledImages(paths, ViewMaker(views, wanted_of(settings), settings.seed, clock.span))

    def load(number: int) -> dict[str, float]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            clock.take()
            collate_views(dataset.__getitems__([(number, i % len(paths)) for i in range(settings.batch)]))
            return clock.take()
        finally:
            torch.set_num_threads(threads)

    return load


def _row(side: str, picture: str, rounds: list[dict[str, float]], batch: int, step: float | None) -> dict:
    middle = {part: median(seconds[part] for seconds in rounds) for part in (*PARTS, TOTAL)}
    totals = [seconds[TOTAL] for seconds in rounds]
    return {
        "what": f"{picture}, {side}", "side": side, "picture": picture, **{part: 1e3 * seconds / batch for part, seconds in middle.items()},
        "spread": (max(totals) - min(totals)) / middle[TOTAL], "share": middle[TOTAL] / step if step else None,
        "step_seconds": step,
    }  # fmt: skip


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    """On a CPU its threads' mean CPU time, to be compared with the loader's; on a GPU time on the clock."""
    on_cpu, wait = device.type == "cpu", waiter(device)
    now = time.process_time if on_cpu else time.perf_counter
    wait()
    started = now()
    step()
    wait()
    return (now() - started) / (torch.get_num_threads() if on_cpu else 1)
