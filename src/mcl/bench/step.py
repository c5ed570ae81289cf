"""The training steps that are compared: each way to compute a method's loss, other methods, and the bare backbone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mcl.config.bench import BenchSettings, BenchStepSettings
from mcl.engine.machine.precision import Format, format_of, try_formats, why_unfit, with_format
from mcl.errors import RunFailed
from mcl.methods.base import Method
from mcl.methods.registry import method_of
from mcl.methods.step import TrainingStep, pretraining_step
from mcl.nn.backbone import features_of

PLAIN = ", plain"  # every gradient as torch computes it
HELPED = ", matrix gradients"  # the plain way with what of ours helps it too
BF16 = ", bf16"
TOLERANCE = 1e-4
NOISE = 1.05  # layouts whose times differ by less are alike


def variants_of(settings: BenchSettings) -> dict[str, BenchSettings]:
    """The ways to compute the recipe's loss that are compared, in fp32 (or in bf16, if the recipe says so).

    The first is the plain way, with gradients as torch computes them (MCL: as the authors' code); the others have what
    the recipe has. With matrix gradients there are two more rows: the plain way with them, the recipe's without.
    """
    kind, own = method_of(settings.method.name), variant_name(settings)
    settings = in_one_precision(settings)
    variants = {
        name: settings.model_copy(update={"method": method})
        for name, method in kind.variants(settings.method).items()
    }
    if settings.loop.matrix_gradients:
        plainest = next(iter(variants))
        if plainest != own:
            variants[plainest + HELPED] = variants[plainest]
            variants[plainest] = with_loop(variants[plainest], matrix_gradients=False)
        variants[own + PLAIN] = with_loop(variants[own], matrix_gradients=False)
    return variants


def in_bf16(settings: BenchSettings, device: torch.device) -> dict[str, BenchSettings]:
    """The recipe's way in bf16, where the machine computes it and does not imitate it (and not all are in bf16 anyway)."""
    chosen = Format("bf16", True)
    if settings.loop.precision == "bf16" or why_unfit(chosen, device):
        return {}
    return {variant_name(settings) + BF16: with_format(settings, chosen)}


def with_loop(settings: BenchSettings, **changes: Any) -> BenchSettings:
    """A recipe with other settings of its loop."""
    return settings.model_copy(update={"loop": settings.loop.model_copy(update=changes)})


def in_one_precision(settings: BenchSettings) -> BenchSettings:
    """A recipe in the number format that all sides compute in: fp32 unless bf16 is set."""
    return with_loop(settings, precision=format_of(settings.loop).precision)


def best_layout(settings: BenchSettings, device: torch.device) -> tuple[BenchSettings, str]:
    """The recipe in the memory layout that is quicker for it here, and how to call that: found by a trial of steps."""
    precision = format_of(settings.loop).precision
    trial = try_formats(
        pretraining_step(settings, device), [Format(precision, True), Format(precision, False)], device
    )
    seconds = {tried.format.channels_last: tried.seconds for tried in trial.tried if tried.seconds}
    best = min(seconds, key=seconds.__getitem__)
    name = "channels_last" if best else "contiguous"
    if len(seconds) == 2 and max(seconds.values()) < NOISE * min(seconds.values()):
        name = "either"
    return with_loop(settings, channels_last=best), f"{precision}, {name}"


def variant_name(settings: BenchSettings) -> str:
    """What the recipe's own way to compute its loss is called."""
    variants = method_of(settings.method.name).variants(settings.method)
    return next(name for name, method in variants.items() if method == settings.method)


def baselines_of(settings: BenchStepSettings) -> dict[str, BenchSettings]:
    """Other methods at the same backbone, images, optimizer and precision; each with its own defaults.

    Raises:
        UserError: there is no such method.
    """
    found, settings = {}, in_one_precision(settings)
    for name in settings.baselines:
        kind = settings.choices[0].settings_of(name)
        trained = {"parts": settings.baseline_parts} if "parts" in kind.model_fields else {}
        found[name] = settings.model_copy(update={"method": kind(**trained)})
    return found


class BackboneStep:
    """The floor: bare backbone forward and backward on what it sees in a training step."""

    def __init__(self, step: TrainingStep) -> None:
        self.method, self.body = step.method, step.method.trunk.backbone.body
        self.images: list[Tensor] = []
        watched = self.body.register_forward_pre_hook(lambda _, inputs: self.images.append(inputs[0].detach()))
        try:
            with torch.no_grad():
                step.method.loss(step.batch, 0)
        finally:
            watched.remove()

    def __call__(self) -> None:
        """All views, as a step does them: forward, then backward through all."""
        features: list[Tensor] = []
        with self.method.autocast():
            for images in self.images:
                features += features_of(self.body, images)
        torch.autograd.backward(features, [torch.ones_like(feature) for feature in features])
        self.body.zero_grad(set_to_none=True)


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


def _eval_numbers(method: Method, loss: Callable[[], tuple[Tensor, dict[str, Tensor]]]) -> dict[str, float]:
    precision, method.precision = method.precision, "fp32"
    method.eval()
    try:
        # On a GPU cuDNN would round to TF32's 10 bits, which is more than the tolerance.
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            total, numbers = loss()
    finally:
        method.precision = precision
        method.train()
    # Accuracies count tiles: rounding turns one at a tie, and that is no difference of the sides.
    compared = {name: float(value) for name, value in numbers.items() if not name.startswith("accuracy/")}
    return {"loss": float(total), **compared}
