"""The target network: an exponential moving average of the online one."""

from __future__ import annotations

import copy
import math

import torch
from timm.layers import DropPath
from torch import nn


def make_target(online: nn.Module) -> nn.Module:
    """A copy without gradients. Its BatchNorm stays in train mode, with running statistics of its own; it drops no paths."""
    target = copy.deepcopy(online).requires_grad_(False)
    for module in target.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
    return target


def momentum_at(step: int, total_steps: int, base: float) -> float:
    """m = 1 - (1 - base)(cos(pi k / K) + 1) / 2: from ``base`` at step 0 towards 1 at the end."""
    return 1.0 - (1.0 - base) * (math.cos(math.pi * step / total_steps) + 1.0) / 2.0


@torch.no_grad()
def move_target(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """target += (1 - momentum) (online - target), parameters only: buffers are the target's own."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 1.0 - momentum)
