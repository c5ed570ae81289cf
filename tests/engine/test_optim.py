"""LARS against timm's and the written-out rule; schedules at their corners."""

from __future__ import annotations

import math

import pytest
import torch
from timm.optim import Lars as TimmLars
from torch import nn

from mcl.config.optim import OptimSettings, ScheduleSettings
from mcl.engine.optim import Lars, Schedule, build_optimizer, resolve_length
from mcl.nn.momentum import make_target, momentum_at, move_target


def gradients(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def make_pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    model, twin = nn.Linear(5, 3), nn.Linear(5, 3)
    twin.load_state_dict(model.state_dict())
    return model, twin


def test_lars_equals_timms_at_a_constant_rate():
    ours, theirs = make_pair()
    a = Lars(ours.parameters(), lr=0.3, momentum=0.9, weight_decay=1e-2, trust=0.01)
    b = TimmLars(
        theirs.parameters(),
        lr=0.3,
        momentum=0.9,
        weight_decay=1e-2,
        trust_coeff=0.01,
        eps=0,
        always_adapt=True,
    )
    for step in range(5):
        gradients(ours, step), gradients(theirs, step)
        a.step(), b.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


def test_lars_keeps_the_rate_inside_the_momentum_buffer():
    parameter = nn.Parameter(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    optimizer = Lars([parameter], momentum=0.9, weight_decay=0.1, trust=0.02)
    expected, buffer = parameter.detach().clone(), torch.zeros_like(parameter)
    for lr, grad in ((0.5, [[1.0, 0.0]]), (0.1, [[0.0, -2.0]])):
        optimizer.param_groups[0]["lr"] = lr
        parameter.grad = torch.tensor(grad, dtype=torch.float64)
        local = 0.02 * expected.norm() / (parameter.grad.norm() + 0.1 * expected.norm())
        buffer = 0.9 * buffer + lr * local * (parameter.grad + 0.1 * expected)
        expected = expected - buffer
        optimizer.step()
    torch.testing.assert_close(parameter.detach(), expected.detach())


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_one_dimensional_parameters_are_neither_decayed_nor_adapted(name):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    optimizer = build_optimizer(
        model, OptimSettings(name=name, lr=2.0, lr_batch=256, weight_decay=0.1), batch=128
    )
    decayed, plain = optimizer.param_groups
    assert [p.ndim for p in decayed["params"]] == [2] and {p.ndim for p in plain["params"]} == {1}
    assert decayed["weight_decay"] == 0.1 and plain["weight_decay"] == 0 and decayed["lr"] == 1.0
    if name == "lars":
        assert decayed["adapt"] and not plain["adapt"]


def test_schedules():
    cosine = Schedule(ScheduleSettings(final_lr=0.1), 1.0, total_steps=110, warmup_steps=10)
    assert [cosine.lr_at(s) for s in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert cosine.lr_at(60) == pytest.approx(0.55) and cosine.lr_at(109) == pytest.approx(0.1, abs=1e-3)
    one_x = Schedule(ScheduleSettings(decay="multistep"), 0.02, total_steps=90_000, warmup_steps=0)
    assert [one_x.lr_at(s) for s in (59_999, 60_000, 80_000)] == pytest.approx([0.02, 0.002, 0.0002])


def test_length_in_epochs_or_steps():
    assert resolve_length(ScheduleSettings(epochs=3, warmup_epochs=1), 50) == (150, 50)
    assert resolve_length(ScheduleSettings(steps=7, warmup_steps=2), 50) == (7, 2)


def test_target_moves_by_exactly_its_share_and_keeps_its_own_statistics():
    online = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    target = make_target(online)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with torch.no_grad():
        for parameter in online.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert all(torch.equal(before[name], tensor) for name, tensor in target.state_dict().items()), (
        "shares storage"
    )
    online(torch.randn(8, 3))
    move_target(target, online, 0.9)
    for name, parameter in target.named_parameters():
        expected = before[name] + 0.1 * (dict(online.named_parameters())[name] - before[name])
        torch.testing.assert_close(parameter.detach(), expected.detach())
    assert torch.equal(target[1].running_mean, before["1.running_mean"])
    assert not any(parameter.requires_grad for parameter in target.parameters())


def test_momentum_goes_from_its_base_to_one():
    assert momentum_at(0, 100, 0.99) == pytest.approx(0.99)
    assert momentum_at(100, 100, 0.99) == pytest.approx(1.0)
    assert momentum_at(50, 100, 0.99) == pytest.approx(1 - 0.01 * (math.cos(math.pi / 2) + 1) / 2)
