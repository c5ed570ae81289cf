"""Optimizers, learning-rate schedules, and the one place where gradients are applied."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mcl.config.optim import OptimSettings, ScheduleSettings
from mcl.engine.processes.gradients import GradientAverage
from mcl.errors import UserError


class Lars(torch.optim.Optimizer):
    """LARS with the learning rate inside the momentum buffer, as in the authors' code.

    local = trust * |p| / (|g| + weight_decay * |p|) (1 where either norm is 0, or in groups with ``adapt=False``);
    buffer = momentum * buffer + lr * local * (g + weight_decay * p); p = p - buffer. Kept with foreach kernels.
    (timm's Lars keeps the rate outside the buffer: equal as long as the rate is constant.)
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
        adapt: bool = True,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust": trust,
            "adapt": adapt,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """Apply the gradients that are there; parameters without one are left alone."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            updates = [p.grad for p in params]
            if group["weight_decay"]:
                updates = torch._foreach_add(updates, params, alpha=group["weight_decay"])
            rates = self._local_rates(params, group)
            updates = torch._foreach_mul(updates, group["lr"] if rates is None else rates)
            for p in params:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            buffers = [self.state[p]["momentum_buffer"] for p in params]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, updates)
            torch._foreach_sub_(params, buffers)

    @staticmethod
    def _local_rates(params: list[Tensor], group: dict) -> list[Tensor] | None:
        """lr * local for every parameter, as 0-d tensors on its device; none where nothing is adapted."""
        if not group["adapt"]:
            return None
        weights = torch.stack(torch._foreach_norm(params))
        grads = torch.stack(torch._foreach_norm([p.grad for p in params]))
        scale = group["trust"] * weights / (grads + group["weight_decay"] * weights)
        local = torch.where((weights > 0) & (grads > 0), scale, torch.ones_like(scale))
        return list((group["lr"] * local).unbind())


def parameter_groups(
    module: nn.Module, weight_decay: float, rate_of: Callable[[str], float] = lambda name: 1.0
) -> list[dict]:
    """Weights, and 1-D parameters (biases, norms), which get neither decay nor adaptation; of each a group for every rate.

    Args:
        rate_of: name of a parameter -> its learning rate as a multiple of the run's (``lr_scale`` of its group).
    """
    trained = [(rate_of(name), p) for name, p in module.named_parameters() if p.requires_grad]
    groups = []
    for scale in sorted({scale for scale, _ in trained}, reverse=True):
        own = [p for s, p in trained if s == scale]
        groups += [
            {"params": [p for p in own if p.ndim > 1], "weight_decay": weight_decay, "adapt": True, "lr_scale": scale},
            {"params": [p for p in own if p.ndim <= 1], "weight_decay": 0.0, "adapt": False, "lr_scale": scale},
        ]
    return groups


def build_optimizer(
    module: nn.Module, settings: OptimSettings, batch: int, rate_of: Callable[[str], float] = lambda name: 1.0
) -> torch.optim.Optimizer:
    """Optimizer over the parameters of ``module`` that require a gradient, at the peak rate for ``batch`` images.

    Args:
        rate_of: see ``parameter_groups``.
    """
    groups, lr = parameter_groups(module, settings.weight_decay, rate_of), settings.peak_lr(batch)
    groups = [group for group in groups if group["params"]]
    if settings.name == "lars":
        return Lars(groups, lr=lr, momentum=settings.momentum, trust=settings.trust)
    for group in groups:
        del group["adapt"]
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=settings.momentum)
    without_data = any(p.is_meta for group in groups for p in group["params"])  # which the fused kernel does not know
    return torch.optim.AdamW(groups, lr=lr, betas=tuple(settings.betas), fused=not without_data)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take back an optimizer's memory (momenta); its settings stay those it was built with.

    torch's own ``load_state_dict`` would silently bring the old weight decay and momentum back.

    Raises:
        UserError: the state is another update rule's, or another network's.
    """
    ours, theirs = optimizer.state_dict()["param_groups"], state["param_groups"]
    if (then := _rule(theirs)) != (now := _rule(ours)):
        raise UserError(
            f"the checkpoint's optimizer is {then}, now it is {now}: --optim.name cannot be changed within a run"
        )
    if (a := [len(g["params"]) for g in ours]) != (b := [len(g["params"]) for g in theirs]):
        raise UserError(f"the checkpoint's optimizer holds {b} tensors, this run trains {a}")
    optimizer.load_state_dict({**state, "param_groups": ours})


def _rule(groups: list[dict]) -> str:
    """Which update rule parameter groups belong to, by the settings that they hold."""
    if any("betas" in group for group in groups):
        return "adamw"
    return "lars" if any("trust" in group for group in groups) else "sgd"


class Schedule:
    """Learning rate of every step: linear warm-up, then cosine, steps, or nothing."""

    def __init__(
        self, settings: ScheduleSettings, peak_lr: float, total_steps: int, warmup_steps: int
    ) -> None:
        self.settings, self.peak_lr = settings, peak_lr
        self.total_steps, self.warmup_steps = total_steps, min(warmup_steps, total_steps)

    def lr_at(self, step: int) -> float:
        """Rate of step 0 .. total_steps - 1."""
        if step < self.warmup_steps:
            return self.peak_lr * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        if self.settings.decay == "cosine":
            final = min(self.settings.final_lr, self.peak_lr)
            return final + (self.peak_lr - final) * (1 + math.cos(math.pi * progress)) / 2
        if self.settings.decay == "multistep":
            passed = sum(step >= round(fraction * self.total_steps) for fraction in self.settings.milestones)
            return self.peak_lr * 0.1**passed
        return self.peak_lr


def resolve_length(settings: ScheduleSettings, per_epoch: int) -> tuple[int, int]:
    """(total steps, warm-up steps) for ``per_epoch`` steps a pass."""
    total = (
        settings.steps if settings.steps is not None else max(1, round((settings.epochs or 1) * per_epoch))
    )
    return total, settings.warmup_steps + round(settings.warmup_epochs * per_epoch)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the rate ``lr``, times its own ``lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def apply_gradients(
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    clip_norm: float | None,
    average: GradientAverage | None = None,
) -> Tensor:
    """Backward, average over processes, clip the global norm, step, zero; returns the norm before clipping (0-d)."""
    (loss if average is None else average.last(loss)).backward()
    params = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(params, clip_norm if clip_norm is not None else math.inf)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
