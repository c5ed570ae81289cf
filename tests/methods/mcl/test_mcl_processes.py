"""Two processes with half a batch each are one process with the batch: losses, gradients, parameters, in float64."""

from __future__ import annotations

import pytest
import torch

from levels import joint_regions, random_batch, random_regions
from mcl.config.optim import OptimSettings
from mcl.config.pretrain import ModelSettings
from mcl.engine.optim import apply_gradients, build_optimizer, set_lr
from mcl.engine.processes.distributed import all_reduce_mean, rank
from mcl.engine.processes.gradients import GradientAverage
from mcl.methods.mcl.method import Mcl
from mcl.methods.mcl.micro_batches import MicroBatch
from mcl.methods.mcl.scattered import tile_side
from mcl.methods.mcl.settings import MclSettings
from mcl.methods.mcl.tiles import VIEWS
from mcl.methods.montage import Shuffle
from mcl.nn.sync_norm import synchronise_norms
from mcl.nn.trunk import Trunk, TrunkSpec
from ranks import on_ranks

HALF = 6
STEPS = {"top": 3, "queue": 3}
CASES = {
    "top": {},
    # Several positives a tile, not equally many; P2 is not trained and stays without a gradient.
    "adjacent": {"assignment": "adjacent", "montages": {2: 1, 4: 1}, "scales": [1, 2, 4]},
    "batch": {"layout": "batch", "scales": [1, 2]},
    "byol": {"loss": "byol", "assignment": "all", "scales": [1, 2]},
    "simsiam": {"loss": "simsiam", "scales": [1, 2]},
    "vicreg": {"loss": "vicreg", "predictor": False, "assignment": "adjacent", "scales": [1, 2, 4]},
    "queue": {"queue": 40, "scales": [1, 2]},
    "dense": {"dense_weight": 0.7, "scales": [1, 2]},
    "regions": {"regions_weight": 0.6, "regions": 3, "scales": [1, 2]},
    "scattered": {"layout": "scattered", "localise": True, "scales": [1, 2]},
    "labels": {"labels": True, "scales": [1, 2]},
}


def build(case: str) -> Mcl:
    torch.manual_seed(3)
    trunk = Trunk(TrunkSpec("test_resnet", 16, 1, image_size=64))
    settings = MclSettings(**CASES[case])
    method = Mcl(trunk, ModelSettings(hidden=24, embedding=12), settings, seed=5).double().train()
    with torch.no_grad():  # predictors begin near zero: gradients would be too small to compare
        for parameter in method.online["predictors"].parameters() if settings.predictor else ():
            parameter.normal_(std=0.3)
    return method


def batch_of(step: int, number: int, scales: tuple[int, ...], side=None) -> dict:
    g = torch.Generator().manual_seed(100 * step + number)
    batch = random_batch(HALF, scales, g, side=side)
    # Classes that meet across the halves.
    return {**batch, "fields": {"class": torch.arange(HALF) // 2 + 10 * (step % 2) + number, **random_regions(HALF, g)}}


def half(method: Mcl, step: int, number: int) -> MicroBatch:
    side = tile_side if method.settings.layout == "scattered" else None
    return Mcl.draw_micro_batch(method, batch_of(step, number, method.scales, side), step, number)


def joint(method: Mcl, step: int) -> MicroBatch:
    """Both halves' canvases and shuffles as those of one process."""
    halves = [half(method, step, number) for number in (0, 1)]
    canvases, shuffles = {}, {}
    for view in VIEWS:
        layout, seen = method.layout(halves[0].shuffles[view]), [own.canvases[view] for own in halves]
        if method.settings.layout == "batch":
            canvases[view] = {s: torch.cat([tiles[s] for tiles in seen]) for s in method.scales}
        else:
            pieces = [of_half[layout.slice_of(scale)] for scale in method.scales for of_half in seen]
            canvases[view] = torch.cat(pieces)
        shuffles[view] = Shuffle({s: torch.cat([own.labels(view, s) for own in halves]) for s in method.scales})
    boxes, jittered, crops = (
        {v: {s: torch.cat([part[v][s] for part in parts]) for s in parts[0][v]} for v in parts[0]}
        for parts in ([getattr(own, name) for own in halves] for name in ("boxes", "jittered", "crops"))
    )
    return MicroBatch(canvases, shuffles, 0, boxes, jittered, crops, joint_regions(halves))


def joint_batch(method: Mcl, step: int) -> dict:
    halves = [batch_of(step, number, method.scales) for number in (0, 1)]
    return {
        "index": torch.arange(2 * HALF),
        "fields": {"class": torch.cat([of_half["fields"]["class"] for of_half in halves])},
    }


def train(case: str, together: bool) -> dict[str, torch.Tensor]:
    """Some steps: losses, spread, gradients before clipping, and the whole state after each."""
    method = build(case)
    if together:
        synchronise_norms(method, "cpu")
        method.draw_micro_batch = lambda batch, step, number: half(method, step, number)
    else:
        method.draw_micro_batch = lambda batch, step, number: joint(method, step)
    optim = OptimSettings(clip_norm=0.5)
    optimizer = build_optimizer(method.trained, optim, 2 * HALF)
    set_lr(optimizer, 0.5)
    average = GradientAverage(method.trained.parameters(), bucket_mb=0.02)
    found = {}
    for step in range(STEPS.get(case, 1)):
        batch = batch_of(step, rank(), method.scales) if together else joint_batch(method, step)
        loss, numbers = method.loss(batch, step)
        found[f"loss {step}"] = all_reduce_mean(loss.detach())
        for name, value in numbers.items():
            if name.startswith(("loss/", "spread", "rank", "localise/", "dense/", "regions/")):
                found[f"{name} {step}"] = all_reduce_mean(value)
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
