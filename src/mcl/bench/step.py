"""One training step as the loop does it, for each encoding, on random tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from mcl.bench.parts import count_flops, parts_of
from mcl.config.bench import BenchSettings
from mcl.config.pretrain import MethodSettings
from mcl.data.random import STREAM_VIEWS, STREAM_WEIGHTS, generator_for, seeded
from mcl.data.views import VIEWS
from mcl.engine.gradients import GradientAverage
from mcl.engine.optim import apply_gradients, build_optimizer, set_lr
from mcl.errors import RunFailed
from mcl.methods.mcl import Mcl
from mcl.nn.backbone import features_of
from mcl.nn.trunk import Trunk, TrunkSpec
from mcl.pretext.montage import assemble

EXHAUSTIVE, MATCHED_ALL, MATCHED_FULL = "exhaustive", "matched/all", "matched/full"
TOLERANCE = 1e-4
TOTAL_STEPS = 1000  # only paces the target's momentum
SMALL_LR = 1e-6  # weights stay where they are: diverging numbers cost other time than training does


def variants_of(method: MethodSettings) -> dict[str, MethodSettings]:
    """The encodings to compare; targets from full-size images exist for assignment ``top`` only."""
    changes = {
        EXHAUSTIVE: {"encode": "exhaustive", "target_canvases": "all"},
        MATCHED_ALL: {"encode": "matched", "target_canvases": "all"},
        MATCHED_FULL: {"encode": "matched", "target_canvases": "full"},
    }
    if method.assignment != "top":
        del changes[MATCHED_FULL]
    return {name: method.model_copy(update=change) for name, change in changes.items()}


class TrainingStep:
    """Both views forward, backward, optimizer, EMA: calling it does one step."""

    def __init__(self, settings: BenchSettings, method: MethodSettings, device: torch.device | str) -> None:
        self.settings = settings
        self.method = build_method(settings, method).to(device).train()
        self.optimizer = build_optimizer(self.method.trained, settings.optim, settings.batch)
        set_lr(self.optimizer, SMALL_LR)
        self.batch = random_batch(settings, device)
        self.average: GradientAverage | None = None
        self.step = 0

    def __call__(self) -> None:
        """One step, as ``mcl pretrain`` does it."""
        loss, _ = self.method.loss(self.batch, self.step)
        apply_gradients(loss, self.optimizer, self.settings.optim.clip_norm, self.average)
        self.method.after_update(self.step, TOTAL_STEPS)
        self.step += 1

    def gradients_only(self) -> None:
        """Forward and backward."""
        loss, _ = self.method.loss(self.batch, self.step)
        loss.backward()


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


def build_method(settings: BenchSettings, method: MethodSettings) -> Mcl:
    """A method with the weights that the recipe's seed gives, in train mode on the CPU."""
    model, loop = settings.model, settings.loop
    spec = TrunkSpec(model.backbone, model.pyramid_channels, model.head_convs, settings.image_size)
    with seeded(STREAM_WEIGHTS, settings.seed):
        built = Mcl(Trunk(spec), model, method, settings.seed, loop.precision, loop.channels_last)
    return built.to(memory_format=torch.channels_last) if loop.channels_last else built


def random_batch(settings: BenchSettings, device: torch.device | str) -> dict[str, Any]:
    """A batch as ``collate_tiles`` makes it, of random pixels."""
    generator = generator_for(STREAM_VIEWS, settings.seed)

    def tiles(scale: int) -> Tensor:
        shape = (settings.batch, 3, settings.image_size // scale, settings.image_size // scale)
        if torch.device(device).type == "meta":
            return torch.empty(shape, dtype=torch.uint8, device=device)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)

    made = {view: {scale: tiles(scale) for scale in settings.method.scales} for view in VIEWS}
    return {"tiles": made, "index": torch.arange(settings.batch), "unreadable": []}


def step_flops(settings: BenchSettings, method: MethodSettings) -> dict[str, int]:
    """part -> FLOPs of a step's forward and backward, counted on tensors without data."""
    step = TrainingStep(settings, method, "meta")
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
    return {"loss": float(total), **{name: float(value) for name, value in numbers.items()}}
