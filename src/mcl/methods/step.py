"""One training step as the loop does it, on random pixels: for whoever wants to know what a step costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mcl.engine.machine.precision import Format, Trial, formats_for, try_formats, with_format
from mcl.engine.optim import apply_gradients, build_optimizer, set_lr
from mcl.engine.processes.gradients import GradientAverage
from mcl.methods.base import Method, mean_numbers
from mcl.methods.build import Recipe, build_method
from mcl.methods.registry import method_of

TOTAL_STEPS = 1000  # only paces the target's momentum
SMALL_LR = 1e-6  # weights stay where they are: diverging numbers cost other time than training does


class TrainingStep:
    """Forward, backward, optimizer, target: calling it does one step."""

    def __init__(self, settings: Recipe, device: torch.device | str) -> None:
        self.settings = settings
        self.method = build_method(settings).to(device).train()
        self.optimizer = build_optimizer(self.method.trained, settings.optim, settings.batch)
        set_lr(self.optimizer, SMALL_LR)
        self.batch = example_batch(settings, device)
        self.average: GradientAverage | None = None
        self.step = 0

    def __call__(self) -> None:
        """One step, as ``mcl pretrain`` does it."""
        update(
            self.method, self.batch, self.step, self.optimizer, self.settings.optim.clip_norm, self.average,
            self.settings.accumulate,
        )  # fmt: skip
        self.method.after_update(self.step, TOTAL_STEPS)
        self.step += 1

    def gradients_only(self) -> None:
        """Forward and backward."""
        for loss, _ in self.method.losses(self.batch, self.step, self.settings.accumulate):
            loss.backward()


def update(
    method: Method,
    batch: Mapping[str, Any],
    step: int,
    optimizer: torch.optim.Optimizer,
    clip_norm: float | None,
    average: GradientAverage | None = None,
    micro_batches: int = 1,
) -> dict[str, Tensor]:
    """Forward and backward of a batch piece by piece (of so many micro-batches), then one optimizer step; returns numbers to log.

    Args:
        method: in train mode.
        batch: of ``Method.collate``: this process's images, a multiple of ``micro_batches``.
        average: of gradients over processes.
    """
    count, rows, losses = method.backward_passes(micro_batches), [], []
    for number, (loss, numbers) in enumerate(method.losses(batch, step, micro_batches), start=1):
        losses.append(loss.detach())
        rows.append(numbers)
        if number < count:
            loss.backward()
        else:
            norm = apply_gradients(loss, optimizer, clip_norm, average)
    return {"loss": torch.stack(losses).sum(), **mean_numbers(rows), "gradient_norm": norm}


def example_batch(settings: Recipe, device: torch.device | str) -> dict[str, Any]:
    """A batch of a recipe as the loader gives it, of random pixels."""
    return method_of(settings.method.name).example_batch(
        settings.method, settings.views, settings.image_size, settings.batch, settings.seed, device
    )


def pretraining_step(settings: Recipe, device: torch.device) -> Callable[[Format], TrainingStep]:
    """What gives, for a format, one pre-training step of a recipe on random pixels (a network of its own)."""
    return lambda chosen: TrainingStep(with_format(settings, chosen), device)


def try_recipe(settings: Recipe, device: torch.device, formats: Sequence[Format] = ()) -> Trial:
    """The trial of formats (default: of those that the recipe leaves free) without a run."""
    return try_formats(pretraining_step(settings, device), formats or formats_for(settings.loop), device)


def what_takes_time(settings: Recipe) -> dict[str, Any]:
    """Whatever of a recipe (besides its loop) decides how long its step takes, as plain types."""
    return {
        "method": settings.method.model_dump(mode="json"), "model": settings.model.model_dump(mode="json"),
        "image_size": settings.image_size, "batch": settings.batch, "accumulate": settings.accumulate,
        "optimizer": settings.optim.name,
    }  # fmt: skip
