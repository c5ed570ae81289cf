"""Small methods in float64 for the tests of single methods."""

from __future__ import annotations

import torch

from mcl.config.base import from_values
from mcl.config.pretrain import PretrainSettings
from mcl.methods.base import Method
from mcl.methods.build import build_method
from mcl.methods.step import TrainingStep, example_batch
from tiny import tiny

PARTS = ["backbone", "backbone+pyramid+head"]


def recipe(name: str, parts: str, **more) -> PretrainSettings:
    """A small recipe of a method: 6 images of 64 px."""
    values = {**tiny(), "batch": 6, "image_size": 64, "data": "a", "out": "b", "method.name": name, "method.parts": parts, **more}
    return from_values(PretrainSettings, values)


def in_float64(settings: PretrainSettings) -> tuple[Method, dict]:
    """The method in float64 and train mode, with a target and predictors that are not the online network's; a batch."""
    method = build_method(settings).double().train()
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for key, parameter in method.named_parameters():
            if key.startswith(("target.", "predictor.")) and parameter.ndim > 1:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=g, dtype=torch.float64))
    return method, example_batch(settings, "cpu")


def learn(settings: PretrainSettings, steps: int = 12, lr: float = 2e-3) -> tuple[float, dict[str, float], TrainingStep]:
    """How far the loss of a batch falls in some steps on it, the numbers after them, and the trained step."""
    step = TrainingStep(settings, "cpu")
    for group in step.optimizer.param_groups:
        group["lr"] = lr
    with torch.no_grad():
        first, _ = step.method.loss(step.batch, 0)
    for _ in range(steps):
        step()
    with torch.no_grad():
        last, numbers = step.method.loss(step.batch, 0)
    return float(first - last), {name: float(value) for name, value in numbers.items()}, step
