"""The one training loop: pre-training and fine-tuning both run in it. It knows steps, not methods."""

from __future__ import annotations

import math
import resource
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from mcl.config.optim import LoopSettings
from mcl.data.random import STREAM_STEP, seed_for
from mcl.engine.checkpoint import load_checkpoint, save_checkpoint
from mcl.engine.distributed import (
    Agreement,
    is_main,
    mean_over_processes,
    process_count,
    rank,
    same_everywhere,
    wait_for_all,
)
from mcl.engine.logging import Display, Metrics, describe, duration, end_time
from mcl.engine.run_folder import RunFolder
from mcl.errors import Interrupted, RunFailed

FORECAST_STEPS = 20


class Trainable(Protocol):
    """What the loop trains."""

    def train_step(self, batch: Any, step: int) -> dict[str, Tensor | float]:
        """One update; returns numbers to log, among them ``loss`` and ``lr``."""

    def watch(self, values: Mapping[str, float]) -> str | None:
        """A warning in words about the newest numbers, or none."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain types from which training continues exactly."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""


@dataclass(frozen=True)
class LoopSummary:
    """What a run cost, over all its resumptions."""

    steps: int
    images: int
    seconds: float
    images_per_second: float
    data_wait: float
    peak_memory_mb: float

    def as_dict(self) -> dict[str, float]:
        """For summary.json."""
        return asdict(self)


def run_loop(
    trainable: Trainable,
    batches: Callable[[int], Iterator[Any]],
    *,
    total_steps: int,
    images_per_step: int,
    folder: RunFolder,
    settings: LoopSettings,
    resume: bool,
    title: str,
    seed: int = 0,
) -> LoopSummary:
    """Train from the start, or from the folder's checkpoint, to ``total_steps``.

    Args:
        trainable: does the steps.
        batches: gives the batches from a step on.
        images_per_step: for images/s.
        resume: continue from ``last.pt``.
        title: shown before the progress bar.
        seed: torch's global generator is set from (seed, step) before each step, so a step draws the same
            numbers whether or not the run was interrupted before it.

    Raises:
        RunFailed: the loss is not finite, or a checkpoint cannot be written.
        Interrupted: SIGINT or SIGTERM came; the checkpoint has been written.
    """
    start_step, before = 0, {"seconds": 0.0, "waited": 0.0}
    if resume:
        content = load_checkpoint(folder.checkpoint)
        trainable.load_state_dict(content["state"])
        start_step, before = content["step"], content["cost"]
        same_everywhere(start_step, f"the step of {folder.checkpoint}")
    runner = _Runner(
        trainable, folder, settings, total_steps, images_per_step, title, start_step, before, seed
    )
    return runner.run(batches)


class _Runner:
    """State of one call of ``run_loop``."""

    def __init__(
        self, trainable, folder, settings, total_steps, images_per_step, title, start_step, before, seed
    ):
        self.trainable, self.folder, self.settings = trainable, folder, settings
        self.total_steps, self.images_per_step, self.seed = total_steps, images_per_step, seed
        self.title, self.start_step, self.before = title, start_step, before
        self.started = time.perf_counter()
        self.waited = 0.0
        self.saved_step = start_step if start_step else None
        self.pending: list[dict[str, Tensor | float]] = []
        self.warned = False
        self.interval = (self.started, 0.0)  # (start, data wait then) of the steps since the last line
        self.stop = Agreement()

    def run(self, batches: Callable[[int], Iterator[Any]]) -> LoopSummary:
        display = Display(self.title, self.total_steps, self.start_step)
        metrics = Metrics(self.folder, self.start_step, self.settings.tensorboard) if is_main() else None
        try:
            with display, _catch_signals() as caught:
                stream = batches(self.start_step)
                for step in range(self.start_step, self.total_steps):
                    self._step(stream, step, caught)
                    self._report(display, metrics, step + 1)
                    if number := self.stop.largest(max(caught, default=0)):
                        self._stop(number, step + 1)
                    if (step + 1) % self.settings.checkpoint_every == 0 or step + 1 == self.total_steps:
                        self._save(step + 1)
        finally:
            if metrics:
                metrics.close()
        return self._summary()

    def _step(self, stream: Iterator[Any], step: int, caught: list[int]) -> None:
        asked = time.perf_counter()
        batch = next(stream)
        self.waited += time.perf_counter() - asked
        self.stop.give(max(caught, default=0))
        own = (rank(),) if rank() else ()  # processes draw different numbers, rank 0 those of a single process
        torch.manual_seed(seed_for(STREAM_STEP, self.seed, step, *own))
        values = self.trainable.train_step(batch, step)
        self.pending.append(values)
        if torch.is_tensor(values["loss"]) and not values["loss"].is_cuda:
            # On a GPU this would wait for the device in every step: there it is checked when numbers are logged.
            self._check_finite(float(values["loss"]), values, step + 1)

    def _report(self, display: Display, metrics: Metrics | None, done: int) -> None:
        display.advance(done)
        ran = done - self.start_step
        if ran == FORECAST_STEPS and done < self.total_steps:
            per_step = self.seconds / ran
            left, total = per_step * (self.total_steps - done), per_step * self.total_steps
            display.say(
                f"{self.title}: ends about {end_time(left)} (in {duration(left)}); {duration(total)} in all for "
                f"{self.total_steps * self.images_per_step:,} images at {self.images_per_step / per_step:.1f} images/s"
            )
        if done % self.settings.log_every and done != self.total_steps:
            return
        values = self._averages(done)
        if metrics:
            metrics.write(done, values)
        display.log(done, describe(values, (self.total_steps - done) * self.seconds / ran))
        warning = self.trainable.watch(values)
        # Said when it begins, not in every line until it is over.
        if warning and not self.warned:
            display.say(f"warning, step {done}: {warning}", style="yellow")
        self.warned = bool(warning)

    def _averages(self, done: int) -> dict[str, float]:
        """Means over the steps since the last line, fetched from the device at once."""
        now, steps = time.perf_counter(), len(self.pending)
        rows = [[float(v) if not torch.is_tensor(v) else v for v in row.values()] for row in self.pending]
        names = list(self.pending[-1])
        columns = [
            torch.stack([torch.as_tensor(row[i], dtype=torch.float64) for row in rows])
            for i in range(len(names))
        ]
        values = {name: float(column.mean()) for name, column in zip(names, columns, strict=True)}
        started, waited = self.interval
        values["lr"] = float(self.pending[-1]["lr"])
        values["images_per_second"] = steps * self.images_per_step / (now - started)
        values["data_wait"] = (self.waited - waited) / (now - started)
        joint = mean_over_processes(torch.tensor(list(values.values()), dtype=torch.float64))
        values = dict(zip(values, joint.tolist(), strict=True))
        self._check_finite(values["loss"], values, done)
        self.pending, self.interval = [], (now, self.waited)
        return values

    def _check_finite(self, loss: float, values: Mapping[str, Any], done: int) -> None:
        if math.isfinite(loss):
            return
        kept = (
            f"{self.folder.checkpoint} (step {self.saved_step})"
            if self.saved_step
            else "none was written yet"
        )
        raise RunFailed(
            f"loss is {loss} at step {done} (lr {float(values['lr']):.3g}); last good checkpoint: {kept}; "
            "try a lower --optim.lr, more --schedule.warmup_steps or a lower --optim.clip_norm"
        )

    def _save(self, done: int) -> None:
        if self.saved_step == done:
            return
        cost = {
            "seconds": self.seconds + self.before["seconds"],
            "waited": self.waited + self.before["waited"],
        }
        state = self.trainable.state_dict()  # on every process: it may exchange something
        if is_main():
            save_checkpoint(self.folder.checkpoint, {"step": done, "cost": cost, "state": state})
        self.saved_step = done

    def _stop(self, signal_number: int, done: int) -> None:
        self._save(done)
        wait_for_all()  # a launcher may kill the others as soon as one has left
        name = signal.Signals(signal_number).name
        raise Interrupted(f"stopped by {name} at step {done}; continue with --resume", signal_number)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def _summary(self) -> LoopSummary:
        seconds = self.seconds + self.before["seconds"]
        images = self.total_steps * self.images_per_step
        waited = self.waited + self.before["waited"]
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
            memory = torch.cuda.max_memory_allocated() / 2**20
        return LoopSummary(
            self.total_steps, images, round(seconds, 1), round(images / max(seconds, 1e-9), 2),
            round(waited / max(seconds, 1e-9), 4), round(memory, 1),
        )  # fmt: skip


@contextmanager
def _catch_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that the step under way ends and a checkpoint is written; a second one kills."""
    caught: list[int] = []

    def note(number: int, _frame) -> None:
        caught.append(number)
        if process_count() > 1:
            return  # launchers pass on what the terminal has sent already
        signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)

    try:
        previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: signals are the caller's
        yield caught
        return
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
