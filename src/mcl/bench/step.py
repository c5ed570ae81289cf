"""The training steps that are compared: of each encoding, and of the bare backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from mcl.bench.parts import count_flops, parts_of
from mcl.config.bench import BenchSettings
from mcl.data.loading.views import VIEWS
from mcl.errors import RunFailed
from mcl.methods.mcl.method import Mcl
from mcl.methods.mcl.montage import assemble
from mcl.methods.step import TrainingStep
from mcl.nn.backbone import features_of

EXHAUSTIVE, MATCHED_ALL, MATCHED_FULL = "exhaustive", "matched/all", "matched/full"
PLAIN = "matched/all, plain"  # every gradient as torch computes it
TOLERANCE = 1e-4


def variants_of(settings: BenchSettings) -> dict[str, BenchSettings]:
    """The steps to compare; targets from full-size images exist for assignment ``top`` only."""
    changes = {
        EXHAUSTIVE: {"encode": "exhaustive", "target_canvases": "all"},
        MATCHED_ALL: {"encode": "matched", "target_canvases": "all"},
        MATCHED_FULL: {"encode": "matched", "target_canvases": "full"},
    }
    if settings.method.assignment != "top":
        del changes[MATCHED_FULL]
    variants = {
        name: settings.model_copy(update={"method": settings.method.model_copy(update=change)})
        for name, change in changes.items()
    }
    if settings.loop.matrix_gradients:
        loop = settings.loop.model_copy(update={"matrix_gradients": False})
        variants[PLAIN] = variants[MATCHED_ALL].model_copy(update={"loop": loop})
    return variants


class BackboneStep:
    """The floor: bare backbone forward and backward on the canvases of a training step."""

    def __init__(self, step: TrainingStep) -> None:
        method, settings = step.method, step.settings
        self.precision, self.body = settings.loop.precision, method.trunk.backbone.body
        spec = method.trunk.spec
        self.canvases = [
            assemble(step.batch["tiles"][view], method.draw_shuffle(settings.batch, 0, view), spec.mean, spec.std,
                     channels_last=settings.loop.channels_last)
            for view in VIEWS
        ]  # fmt: skip

    def __call__(self) -> None:
        """Both views, as a step does them: forward twice, then backward through both."""
        features: list[Tensor] = []
        device_type = self.canvases[0].device.type
        with torch.autocast(device_type, torch.bfloat16, enabled=self.precision == "bf16"):
            for canvases in self.canvases:
                features += features_of(self.body, canvases)
        torch.autograd.backward(features, [torch.ones_like(feature) for feature in features])
        self.body.zero_grad(set_to_none=True)


def step_flops(settings: BenchSettings) -> dict[str, int]:
    """part -> FLOPs of a step's forward and backward, counted on tensors without data."""
    step = TrainingStep(settings, "meta")
    with without_autocast():
        return count_flops(parts_of(step.method), step.gradients_only)


@contextmanager
def without_autocast() -> Iterator[None]:
    """torch refuses autocast for tensors without data (device meta); FLOPs are the same in any precision."""
    autocast = torch.autocast
    torch.autocast = lambda *_, **__: nullcontext()
    try:
        yield
    finally:
        torch.autocast = autocast


def check_same_losses(steps: dict[str, TrainingStep]) -> dict[str, float]:
    """Give all sides the same weights and running statistics, and compare their losses.

    With BatchNorm in eval mode the encodings are the same function, so a difference would mean that one side
    does less work than it should, and no speed-up is worth showing.

    Returns:
        name -> loss, in fp32.

    Raises:
        RunFailed: a loss of a level or the total differs by more than 1e-4 relative, or a cosine by 1e-4.
    """
    first = next(iter(steps.values()))
    with (
        torch.no_grad()
    ):  # running statistics of these very canvases: without, activations grow from block to block
        first.method.loss(first.batch, 0)
    numbers = {}
    for name, step in steps.items():
        if step is not first:
            step.method.load_state_dict(first.method.state_dict())
        numbers[name] = _eval_numbers(step.method, lambda step=step: step.method.loss(step.batch, 0))
    expected_name, expected = next(iter(numbers.items()))
    for name, found in numbers.items():
        for key, value in expected.items():
            allowed = TOLERANCE * (abs(value) if "loss" in key else 1.0)
            if not abs(found[key] - value) <= allowed:
                raise RunFailed(
                    f"no speed-up is shown: with BatchNorm in eval mode, {key} is {found[key]:.7g} for {name} and "
                    f"{value:.7g} for {expected_name}; they must agree to {TOLERANCE:g}"
                )
    return {name: found["loss"] for name, found in numbers.items()}


def _eval_numbers(method: Mcl, loss: Callable[[], tuple[Tensor, dict[str, Tensor]]]) -> dict[str, float]:
    precision, method.precision = method.precision, "fp32"
    method.eval()
    try:
        with torch.no_grad():
            total, numbers = loss()
    finally:
        method.precision = precision
        method.train()
    # Accuracies count tiles: rounding turns one at a tie, and that is no difference of the sides.
    compared = {name: float(value) for name, value in numbers.items() if not name.startswith("accuracy/")}
    return {"loss": float(total), **compared}
