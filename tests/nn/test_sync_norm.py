"""Norms over all processes are torch's BatchNorm on the joined batch: values, running statistics, gradients."""

from __future__ import annotations

import torch
from timm.layers import BatchNormAct2d
from torch import nn

from mcl.engine.processes.distributed import rank
from mcl.nn.sync_norm import AllReduceNorm, synchronise_norms
from ranks import on_ranks

SHARES = [slice(0, 5), slice(5, 8)]  # processes may bring different numbers
NORMS = {
    "1d": lambda: nn.BatchNorm1d(6),
    "1d, no affine": lambda: nn.BatchNorm1d(6, affine=False),
    "2d": lambda: nn.BatchNorm2d(6, eps=1e-3, momentum=0.3),
    "2d, cumulative": lambda: nn.BatchNorm2d(6, momentum=None),
    "timm": lambda: BatchNormAct2d(6, act_layer=nn.SiLU),
}


def joined_batch(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(8, 6, ...) inputs far from zero, and a coefficient of the loss for every output."""
    g = torch.Generator().manual_seed(1)
    shape = (8, 6) if name.startswith("1d") else (8, 6, 3, 2)
    inputs = torch.randn(shape, generator=g, dtype=torch.float64) * 3 + 50
    return inputs, torch.randn(shape, generator=g, dtype=torch.float64)


def norm_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    holder = nn.Sequential(NORMS[name]()).double().train()
    for parameter in holder.parameters():
        nn.init.normal_(parameter)
    return holder


def twice(norm: nn.Module, inputs: torch.Tensor, factors: torch.Tensor) -> dict[str, torch.Tensor]:
    """Two training calls, gradients of both, then a call in eval mode."""
    inputs = inputs.clone().requires_grad_()
    outputs = norm(inputs) + norm(inputs * 2 - 1)
    (outputs * factors).sum().backward()
    found = {"outputs": outputs.detach(), "inputs": inputs.grad, **dict(norm.named_buffers())}
    found |= {f"gradient {n}": p.grad for n, p in norm.named_parameters()}
    return {**found, "eval": norm.eval()(inputs).detach()}


def on_a_rank() -> dict[str, dict[str, torch.Tensor]]:
    found = {}
    for name in NORMS:
        norm = norm_of(name)
        before = list(norm.state_dict())
        norm = synchronise_norms(norm, "cpu")
        assert isinstance(norm[0], AllReduceNorm) and list(norm.state_dict()) == before
        inputs, factors = joined_batch(name)
        found[name] = twice(norm, inputs[SHARES[rank()]], factors[SHARES[rank()]])
    empty = synchronise_norms(norm_of("2d"), "cpu")
    inputs, factors = joined_batch("2d")
    own = slice(0, 8) if rank() == 0 else slice(0, 0)
    found["empty"] = twice(empty, inputs[own], factors[own])
    check_half_precision()
    return found


def check_half_precision() -> None:
    """Under autocast a norm gets bf16, keeps its statistics in fp32 and gives bf16, as torch's does."""
    norm, twin = synchronise_norms(norm_of("2d").float(), "cpu"), norm_of("2d").float()
    inputs = joined_batch("2d")[0].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        own, theirs = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
        normed, expected = norm(own), twin(theirs)  # the same inputs on both processes: the same statistics
    assert normed.dtype == expected.dtype and norm[0].running_var.dtype == torch.float32
    normed.float().square().sum().backward(), expected.float().square().sum().backward()
    torch.testing.assert_close(normed, expected, rtol=0.02, atol=0.02)
    torch.testing.assert_close(norm[0].weight.grad, twin[0].weight.grad, rtol=0.02, atol=0.2)
    assert own.grad.dtype == torch.bfloat16


def test_everything_equals_batchnorm_on_the_joined_batch():
    first, second = on_ranks(2, on_a_rank)
    for name, share in first.items():
        norm = "2d" if name == "empty" else name
        expected = twice(norm_of(norm), *joined_batch(norm))
        for what, value in expected.items():
            a, b = share[what], second[name][what]
            if what in ("outputs", "inputs", "eval"):
                found = torch.cat([a, b])
            elif what.startswith("gradient"):
                found = a + b  # each process has its own share
            else:
                found = a
                assert torch.equal(a, b), f"{name}: {what} differs between processes"
            difference = (found - value).abs() / (1 + value.abs())
            assert difference.max() < 1e-10, f"{name}, {what}: {difference.max():.1e}"


def test_replacing_norms_changes_no_tensor_and_leaves_other_modules():
    model = nn.ModuleDict({"a": nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormAct2d(4)), "b": nn.BatchNorm1d(4)})
    before = model.state_dict(keep_vars=True)
    after = synchronise_norms(model, "cpu").state_dict(keep_vars=True)
    assert list(before) == list(after) and all(after[name] is before[name] for name in before)
    assert sum(isinstance(module, AllReduceNorm) for module in model.modules()) == 2
    on_gpu = synchronise_norms(nn.Sequential(nn.BatchNorm1d(4)), "cuda")
    assert isinstance(on_gpu[0], nn.SyncBatchNorm)
