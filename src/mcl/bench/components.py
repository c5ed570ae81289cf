"""How many seconds of a step each component of a method takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mcl.methods.flops import REST, ComponentMeter


def time_components(
    components: Mapping[str, Sequence[nn.Module]],
    step: Callable[[], Any],
    optimizer: torch.optim.Optimizer,
    wait: Callable[[], None],
) -> dict[str, float]:
    """component -> seconds of one call of ``step``; ``optimizer`` is one of its own.

    Waiting for a GPU between them takes away overlap, so the sum may exceed an undisturbed step.
    """

    def now() -> float:
        wait()
        return time.perf_counter()

    with ComponentMeter(components, now) as meter:
        before = optimizer.register_step_pre_hook(lambda *_: meter.switch("optimizer"))
        after = optimizer.register_step_post_hook(lambda *_: meter.switch(REST))
        try:
            step()
        finally:
            before.remove()
            after.remove()
    return {name: meter.totals[name] for name in (*components, "optimizer", REST)}
