"""The one training loop: pre-training and fine-tuning both run in it. It knows steps, not methods."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from mcl.config.optim import LoopSettings
from mcl.config.watch import WatchSettings
from mcl.engine.checkpoint import CheckpointFailed, first_not_finite, save_checkpoint, take_back
from mcl.engine.logging import Display, Metrics, console, describe, duration, end_time
from mcl.engine.machine.memory import (
    describe_out_of_memory,
    is_out_of_memory,
    peak_bytes,
    usable_cores,
)
from mcl.engine.observer import CHECKPOINT, DATA, LOGGING, LOOP, STEP, Nobody, Observer
from mcl.engine.processes.distributed import (
    Agreement,
    barrier,
    broadcast_object,
    is_main,
    process_count,
    rank,
    require_same,
)
from mcl.engine.run_folder import RunFolder
from mcl.engine.space import require_space
from mcl.engine.tally import Tally
from mcl.engine.trackers import open_trackers
from mcl.engine.trainable import LoopSummary, Trainable
from mcl.engine.watch import Watch
from mcl.errors import Interrupted, OutOfMemory, RunFailed, WorkerDied
from mcl.randomness import STREAM_STEP, seed_for
from mcl.signals import Caught, StopWaiting, catch_signals

FORECAST_STEPS = 20


def run_loop(
    trainable: Trainable,
    batches: Callable[[int], Iterator[Any]],
    *,
    total_steps: int,
    images_per_step: int,
    folder: RunFolder,
    settings: LoopSettings,
    watch: WatchSettings,
    resume: bool,
    title: str,
    images: int,
    seed: int = 0,
    advice: Mapping[str, str] | None = None,
    observe: Observer | None = None,
    between: Callable[[int], Mapping[str, float]] = lambda done: {},
    ended: Callable[[int], bool] = lambda done: False,
) -> LoopSummary:
    """Train from the start, or from the folder's checkpoint, to ``total_steps``.

    Args:
        trainable: does the steps.
        batches: gives the batches from a step on.
        images_per_step: for images/s.
        watch: when to warn; warnings are shown, and stand in metrics.jsonl at the line where they begin.
        resume: continue from ``last.pt``.
        title: shown before the progress bar.
        images: that are trained on, noted in checkpoints: a resumed run can be told that there are others now.
        seed: torch's global generator is set from (seed, step) before each step, so a step draws the same
            numbers whether or not the run was interrupted before it.
        advice: kind of warning -> what to try, where the caller knows better than ``mcl.engine.watch``.
        observe: told when the parts of the loop begin and end.
        between: called after every step, before its checkpoint, with the steps done; its time is not the training's.
            What it has measured goes to metrics.jsonl and TensorBoard.
        ended: asked before every step, with the steps done; if true, the run is over before ``total_steps``.

    Raises:
        UserError: the checkpoint is damaged, or of another network.
        RunFailed: the loss or a weight is not finite, a loader process died, or a checkpoint cannot be written.
        OutOfMemory: in a step, in the loader, or while a checkpoint was put together.
        Interrupted: SIGINT, SIGTERM or SIGUSR1 came; the checkpoint has been written.
    """
    start_step, before = 0, {"seconds": 0.0, "waited": 0.0}
    if resume:
        start_step, before = take_back(trainable, folder.checkpoint, total_steps)
        require_same(start_step, f"the step of {folder.checkpoint}")
        how = "going on from step" if start_step < total_steps else "has done step"
        console.print(f"{title}: {how} {start_step:,} of {total_steps:,} ({folder.checkpoint})")
    if start_step < total_steps and settings.on_checkpoint_error == "stop":
        state = trainable.state_dict()  # on every process: it may exchange something
        if is_main():
            require_space(folder, state, getattr(trainable, "optimizer", None))
    observer = observe or Nobody()
    watchdogs = Watch(watch, settings.workers, usable_cores(), advice or {})
    with observer.span(LOOP):
        return _Runner(
            trainable, folder, settings, watchdogs, observer, total_steps=total_steps,
            images_per_step=images_per_step, title=title, images=images, seed=seed, start_step=start_step, before=before,
            between=between, ended=ended,
        ).run(batches)  # fmt: skip


@dataclass
class _Runner:
    """State of one call of ``run_loop``."""

    trainable: Trainable
    folder: RunFolder
    settings: LoopSettings
    watchdogs: Watch
    observer: Observer
    total_steps: int
    images_per_step: int
    title: str
    images: int
    seed: int
    start_step: int
    before: Mapping[str, float]  # what the steps before ``start_step`` cost
    between: Callable[[int], Mapping[str, float]]
    ended: Callable[[int], bool]

    def __post_init__(self) -> None:
        self.config = self.folder.config
        self.started = time.perf_counter()
        self.waited = 0.0
        self.saved_step = self.start_step or None
        self.tally = Tally(self.images_per_step, self.started)
        self.stop = Agreement()

    def run(self, batches: Callable[[int], Iterator[Any]]) -> LoopSummary:
        display = Display(self.title, self.total_steps, self.start_step)
        metrics = self._metrics() if is_main() else None
        stream: Iterator[Any] = iter(())
        try:
            with display, catch_signals(alone=process_count() == 1) as caught:
                stream = batches(self.start_step)
                for step in range(self.start_step, self.total_steps):
                    if self.ended(step):
                        self.total_steps = step
                        self._save(step)
                        break
                    batch = self._next(stream, caught, step)
                    self.stop.give(caught.number or 0)
                    self._step(batch, step)
                    with self.observer.span(LOGGING):
                        self._report(display, metrics, step + 1)
                    self._pause(metrics, step + 1)
                    if number := self.stop.largest(caught.number or 0):
                        self._stop(number, step + 1)
                    if (step + 1) % self.settings.checkpoint_every == 0 or step + 1 == self.total_steps:
                        self._save(step + 1, display)
        except (RuntimeError, MemoryError, OSError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(f"{describe_out_of_memory(error)}; last good checkpoint: {self.kept}") from None
        finally:
            getattr(stream, "close", lambda: None)()
            if metrics:
                metrics.close()
        return self._summary()

    def _metrics(self) -> Metrics:
        trackers = open_trackers(self.settings, self.folder)
        return Metrics(self.folder, self.start_step, self.settings.tensorboard, trackers)

    def _next(self, stream: Iterator[Any], caught: Caught, done: int) -> Any:
        """The next batch; between two steps the state is whole, so whatever ends the run here costs no work."""
        asked = time.perf_counter()
        try:
            with self.observer.span(DATA), caught.while_waiting():
                batch = next(stream)
        except StopWaiting:
            self._stop(caught.number, done)
        except Exception as error:
            died = isinstance(error, WorkerDied)
            if (died or is_out_of_memory(error)) and done and process_count() == 1:
                self._save(done)  # (the others of several are in the middle of a step)
            if not died:
                raise
            raise RunFailed(
                f"{error}; last good checkpoint: {self.kept}; continue with --resume, "
                "with fewer --loop.workers if memory ran out"
            ) from None
        self.waited += time.perf_counter() - asked
        return batch

    def _step(self, batch: Any, step: int) -> None:
        own = (rank(),) if rank() else ()  # processes draw different numbers, rank 0 those of a single process
        torch.manual_seed(seed_for(STREAM_STEP, self.seed, step, *own))
        with self.observer.span(STEP):
            values = self.trainable.train_step(batch, step)
        self.tally.add(values)
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
        values, each = self.tally.take(self.waited)
        self._check_finite(values["loss"], values, done)
        alarms = self.watchdogs.see(done, values, each)
        values |= broadcast_object(lambda: self.trainable.measured(done))
        if metrics:
            metrics.write(done, values, {alarm.kind: alarm.text for alarm in alarms})
        display.log(done, describe(values, (self.total_steps - done) * self.seconds / ran))
        for alarm in alarms:
            display.say(f"warning, step {done}: {alarm.text}", style="yellow")
        self.trainable.logged(values)

    def _pause(self, metrics: Metrics | None, done: int) -> None:
        began = time.perf_counter()
        measured = self.between(done)
        if metrics and measured:
            metrics.write(done, measured)
        spent = time.perf_counter() - began
        self.started += spent
        self.tally.pause(spent)

    def _check_finite(self, loss: float, values: Mapping[str, Any], done: int) -> None:
        if not math.isfinite(loss):
            self._refuse(f"loss is {loss} at step {done} (lr {float(values['lr']):.3g})")

    def _refuse(self, what: str) -> NoReturn:
        raise RunFailed(
            f"{what}; last good checkpoint: {self.kept}; "
            "try a lower --optim.lr, more --schedule.warmup_steps or a lower --optim.clip_norm"
        )

    @property
    def kept(self) -> str:
        """The checkpoint on disk, in words."""
        return f"{self.folder.checkpoint} (step {self.saved_step})" if self.saved_step else "none was written yet"

    def _save(self, done: int, display: Display | None = None) -> None:
        """Write a checkpoint; with a ``display`` and ``loop.on_checkpoint_error continue``, a failure is only said."""
        if self.saved_step != done:
            with self.observer.span(CHECKPOINT):
                self._write(done, display)

    def _write(self, done: int, display: Display | None) -> None:
        cost = {
            "seconds": self.seconds + self.before["seconds"],
            "waited": self.waited + self.before["waited"],
        }
        state = self.trainable.state_dict()  # on every process: it may exchange something
        # The loss tells a step later that an update spoilt the weights; by then they would be in the checkpoint.
        if bad := first_not_finite(state):
            self._refuse(f"{bad} is not finite after step {done}")
        content = {"kind": self.title, "config": self.config, "step": done, "cost": cost, "images": self.images, "state": state}
        try:
            if is_main():
                save_checkpoint(self.folder.checkpoint, content)
        except CheckpointFailed as error:
            if display is None or done == self.total_steps or self.settings.on_checkpoint_error == "stop":
                raise
            display.say(f"warning, step {done}: {error}; the run goes on", style="yellow")
            return
        self.saved_step = done

    def _stop(self, signal_number: int, done: int) -> NoReturn:
        if done:
            self._save(done)
        barrier()  # a launcher may kill the others as soon as one has left
        name = signal.Signals(signal_number).name
        how = "continue with --resume" if done else "before the first one, so there is nothing to resume"
        raise Interrupted(f"stopped by {name} at step {done}; {how}", signal_number)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def _summary(self) -> LoopSummary:
        seconds = self.seconds + self.before["seconds"]
        images = self.total_steps * self.images_per_step
        waited = self.waited + self.before["waited"]
        on_gpu = torch.cuda.is_available() and torch.cuda.max_memory_allocated()
        memory = peak_bytes(torch.device("cuda" if on_gpu else "cpu")) / 2**20
        return LoopSummary(
            self.total_steps, images, round(seconds, 1), round(images / max(seconds, 1e-9), 2),
            round(waited / max(seconds, 1e-9), 4), round(memory, 1),
        )  # fmt: skip
