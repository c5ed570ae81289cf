"""Our code gives the authors' numbers, to 1e-9 relative in float64 (see ``data/README.md``).

Takes every case in MCL_GOLDEN_DIR; without it, the copy in ``data``.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from golden.authors import LETTERS, Case, golden_files
from levels import levels_of
from mcl.engine.optim import Lars, apply_gradients
from mcl.methods.level_loss import total_loss
from mcl.methods.mcl.micro_batches import MicroBatch
from mcl.nn.momentum import momentum_at

RELATIVE = 1e-9


def close(value, expected, what: str, magnitude: float = 1.0) -> None:
    """Relative 1e-9; numbers that are zero but for rounding (of terms of ``magnitude``) may differ by rounding."""
    value, expected = (np.asarray(number, dtype=np.float64) for number in (value, expected))
    np.testing.assert_allclose(value, expected, rtol=RELATIVE, atol=1e-12 * max(1.0, magnitude), err_msg=what)


@pytest.fixture(scope="module", params=golden_files(), ids=lambda path: path.stem)
def case(request) -> Case:
    return Case.read(request.param)


def test_there_are_cases():
    assert golden_files()


def test_montages(case):
    canvases, _ = case.inputs(0)
    probe = torch.from_numpy(case.arrays["montage_probe"]).double()
    for view, letter in LETTERS.items():
        close(
            (canvases[view] * probe).sum(dim=(1, 2, 3)),
            case.arrays[f"montage_dot_{letter}"],
            f"montages of view {letter}",
        )


def test_targets(case):
    canvases, shuffles = case.inputs(0)
    network = case.build(encode="exhaustive").train()
    for view, other in ((1, "k"), (2, "q")):
        targets = network.read_target(MicroBatch(canvases, shuffles, 0), view).embeddings[1]
        expected = case.arrays[f"target_for_{other}"]
        # Stored as float32.
        np.testing.assert_allclose(targets.numpy(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "method",
    [
        {"encode": "exhaustive"},
        {"encode": "matched", "target_canvases": "all"},
        {"encode": "matched", "target_canvases": "full"},
    ],
    ids=["exhaustive", "matched-all", "matched-full"],
)
def test_losses_with_norms_in_eval_mode(case, method):
    network = case.build(**method).eval()
    canvases, shuffles = case.inputs(0)
    with torch.no_grad():
        levels, _ = levels_of(network, canvases, shuffles)
    check_levels(levels, case.settings["eval_mode"])


def check_levels(levels, expected) -> None:
    for row in expected:
        view = next(v for v, letter in LETTERS.items() if letter == row["view"])
        level = levels[view, row["scale"]]
        name = f"scale {row['scale']} view {row['view']}"
        close(level.loss.item(), row["loss"], f"loss of {name}")
        close(level.positive_cosine.item(), row["positive_cosine"], f"positive cosine of {name}")
        close(level.negative_cosine.item(), row["negative_cosine"], f"negative cosine of {name}")


def test_three_steps(case):
    g = case.settings
    network = case.build(encode="exhaustive").train()
    optimizer = authors_lars(case, network)
    for step, expected in enumerate(g["steps"]):
        for group in optimizer.param_groups:
            group["lr"] = expected["lr"]
        close(momentum_at(step, g["total_steps"], g["base_momentum"]), expected["ema"], "momentum")
        levels, _ = levels_of(network, *case.inputs(step))
        check_levels(levels, expected["levels"])
        loss = total_loss(list(levels.values()))
        close(loss.item(), expected["loss"], f"loss of step {step}")
        grads = record_gradient_norms(network)
        norm = apply_gradients(loss, optimizer, g["clip"])
        close(norm.item(), expected["grad_norm"], f"gradient norm of step {step}")
        network.after_update(step, g["total_steps"])
        check_norms(case, grads, expected["grad_norms"], f"gradient, step {step}", magnitude=expected["grad_norm"])
        state = network.state_dict()
        norms = {name: tensor.norm().item() for name, tensor in state.items() if tensor.is_floating_point()}
        check_norms(case, norms, expected["parameter_norms_after"], f"parameter, step {step}")
        check_norms(case, norms, expected["running_mean_norms_after"], f"running mean, step {step}")


def authors_lars(case: Case, network) -> Lars:
    """The authors' name filter decides what is adapted, not the number of dimensions."""
    g = case.settings
    excluded = {case.our_name(name) for name in g["lars_excluded"]}
    params = dict(network.named_parameters())
    adapted = [p for name, p in params.items() if p.requires_grad and name not in excluded]
    rest = [p for name, p in params.items() if p.requires_grad and name in excluded]
    groups = [{"params": adapted, "weight_decay": g["weight_decay"]}, {"params": rest, "adapt": False}]
    return Lars(groups, momentum=g["sgd_momentum"], trust=g["trust"])


def record_gradient_norms(network) -> dict[str, float]:
    """Norms by name, filled when gradients are complete (before clipping changes them)."""
    norms: dict[str, float] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(
                lambda p, name=name: norms.__setitem__(name, p.grad.norm().item())
            )
    return norms


def check_norms(
    case: Case, norms: dict[str, float], expected: dict[str, float], what: str, magnitude: float = 1.0
) -> None:
    for name, value in expected.items():
        close(norms[case.our_name(name)], value, f"{what}: {name}", magnitude)
