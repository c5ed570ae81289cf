"""Two processes with half a batch each are one process with the batch: losses, gradients, parameters, in float64."""

from __future__ import annotations

import pytest
import torch

from levels import levels_of, random_batch
from mcl.config.optim import OptimSettings
from mcl.config.pretrain import ModelSettings
from mcl.engine.optim import apply_gradients, build_optimizer, set_lr
from mcl.engine.processes.distributed import all_reduce_mean, rank
from mcl.engine.processes.gradients import GradientAverage
from mcl.methods.mcl.loss import total_loss
from mcl.methods.mcl.method import Mcl
from mcl.methods.mcl.micro_batches import MicroBatch
from mcl.methods.mcl.montage import Shuffle
from mcl.methods.mcl.settings import MclSettings
from mcl.methods.mcl.tiles import VIEWS
from mcl.nn.sync_norm import synchronise_norms
from mcl.nn.trunk import Trunk, TrunkSpec
from ranks import on_ranks

HALF = 6
STEPS = {"top": 3, "adjacent": 1}
CASES = {
    "top": {},
    # Several positives a tile, not equally many; P2 is not trained and stays without a gradient.
    "adjacent": {"assignment": "adjacent", "montages": {2: 1, 4: 1}, "scales": [1, 2, 4]},
}


def build(case: str) -> Mcl:
    torch.manual_seed(3)
    trunk = Trunk(TrunkSpec("test_resnet", 16, 1, image_size=64))
    settings = MclSettings(**CASES[case])
    method = Mcl(trunk, ModelSettings(hidden=24, embedding=12), settings, seed=5).double().train()
    with torch.no_grad():  # predictors begin near zero: gradients would be too small to compare
        for parameter in method.online["predictors"].parameters():
            parameter.normal_(std=0.3)
    return method


def batch_of(step: int, number: int, scales: tuple[int, ...]) -> dict:
    g = torch.Generator().manual_seed(100 * step + number)
    return random_batch(HALF, scales, g)


def half(method: Mcl, step: int, number: int) -> MicroBatch:
    own = method.draw_micro_batch(batch_of(step, number, method.scales), step, number)
    return MicroBatch({v: canvases.double() for v, canvases in own.canvases.items()}, own.shuffles, number)


def joint(method: Mcl, step: int) -> MicroBatch:
    """Both halves' canvases and shuffles as those of one process."""
    halves = [half(method, step, number) for number in (0, 1)]
    canvases, shuffles = {}, {}
    for view in VIEWS:
        layout = method.layout(halves[0].shuffles[view])
        canvases[view] = torch.cat(
            [own.canvases[view][layout.slice_of(scale)] for scale in method.scales for own in halves]
        )
        shuffles[view] = Shuffle({s: torch.cat([own.labels(view, s) for own in halves]) for s in method.scales})
    return MicroBatch(canvases, shuffles, 0)


def train(case: str, together: bool) -> dict[str, torch.Tensor]:
    """Three steps: losses, spread, gradients before clipping, and the whole state after each."""
    method = build(case)
    if together:
        synchronise_norms(method, "cpu")
    optim = OptimSettings(clip_norm=0.5)
    optimizer = build_optimizer(method.trained, optim, 2 * HALF)
    set_lr(optimizer, 0.5)
    average = GradientAverage(method.trained.parameters(), bucket_mb=0.02)
    found = {}
    for step in range(STEPS[case]):
        own = half(method, step, rank()) if together else joint(method, step)
        levels, health = levels_of(method, own.canvases, own.shuffles)
        loss = total_loss(list(levels.values()))
        found[f"loss {step}"] = all_reduce_mean(loss.detach())
        found[f"spread {step}"] = health["spread"]
        for (view, scale), level in levels.items():
            found[f"loss {step} {view} {scale}"] = all_reduce_mean(level.loss.detach())
        grads = copies_of_gradients(optimizer, method)
        found[f"norm {step}"] = apply_gradients(loss, optimizer, optim.clip_norm, average)
        method.after_update(step, 3)
        found |= {f"gradient {step} {name}": grad for name, grad in grads.items()}
        found |= {f"state {step} {name}": tensor.clone() for name, tensor in method.state_dict().items()}
    return found


def copies_of_gradients(optimizer: torch.optim.Optimizer, method: Mcl) -> dict[str, torch.Tensor]:
    """Filled when the optimizer gets them: averaged, clipped."""
    grads: dict[str, torch.Tensor] = {}

    def copy(*_) -> None:
        grads.update({n: p.grad.clone() for n, p in method.trained.named_parameters() if p.grad is not None})
        handle.remove()

    handle = optimizer.register_step_pre_hook(copy)
    return grads


def all_cases() -> dict[str, dict[str, torch.Tensor]]:
    return {case: train(case, together=True) for case in CASES}


@pytest.fixture(scope="module")
def of_two() -> list[dict]:
    return on_ranks(2, all_cases, timeout=300)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_like_one(of_two, case):
    alone = train(case, together=False)
    for found in of_two:
        assert found[case].keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(
                found[case][name].double(), value.double(), rtol=1e-9, atol=1e-11,
                msg=lambda m, name=name: f"{case}, {name}: {m}",
            )  # fmt: skip
    assert max(value.abs().max() for name, value in alone.items() if name.startswith("gradient")) > 1e-3
    a, b = of_two
    same = [torch.equal(a[case][name], b[case][name]) for name in alone if name.startswith("state")]
    assert all(same) and len(same) > 100  # bit for bit: also the target and running statistics
