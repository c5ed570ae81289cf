"""How much of a step each part of the network takes: FLOPs, or seconds."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mcl.methods.mcl.encoder import Encoder
from mcl.methods.mcl.method import Mcl

REST = "rest"  # montages, loss, optimizer, EMA


class PartMeter:
    """Charges what a growing number (FLOPs so far, seconds so far) grows by to the part at work.

    Forward, a module's hooks say which part is at work; backward, hooks on the autograd nodes that the module
    made. (FlopCounterMode's own split by module follows gradients of a module's inputs, and a backbone's input
    has none.)
    """

    def __init__(self, parts: Mapping[str, Sequence[nn.Module]], read: Callable[[], float]) -> None:
        self.parts, self.read = parts, read
        self.totals: dict[str, float] = defaultdict(float)

    def __enter__(self) -> PartMeter:
        self._handles, self._part, self._last = [], REST, self.read()
        for part, modules in self.parts.items():
            for module in modules:
                self._handles.append(module.register_forward_pre_hook(self._enter(part)))
                self._handles.append(module.register_forward_hook(self._leave(part)))
        return self

    def __exit__(self, *_) -> None:
        self.switch(REST)
        for handle in self._handles:
            handle.remove()

    def switch(self, part: str) -> None:
        """From now on ``part`` is at work."""
        now = self.read()
        self.totals[self._part] += now - self._last
        self._part, self._last = part, now

    def _enter(self, part: str) -> Callable:
        return lambda module, inputs: self.switch(part)

    def _leave(self, part: str) -> Callable:
        def leave(module: nn.Module, inputs: Any, outputs: Any) -> None:
            self.switch(REST)
            outside = {tensor.grad_fn for tensor in _tensors(inputs)}
            for node in _nodes_between(outside, {tensor.grad_fn for tensor in _tensors(outputs)}):
                node.register_prehook(lambda *_: self.switch(part))
                node.register_hook(lambda *_: self.switch(REST))

        return leave


def parts_of(method: Mcl) -> dict[str, list[nn.Module]]:
    """The modules of each part of a method, none inside another."""
    online = method.online["encoder"]
    predictors = method.online["predictors"].values() if "predictors" in method.online else []
    parts = dict(_encoder_parts(online))
    parts["predictors"] = list(predictors)
    parts["target"] = [module for modules in _encoder_parts(method.target).values() for module in modules]
    return {name: modules for name, modules in parts.items() if modules}


def _encoder_parts(encoder: Encoder) -> dict[str, list[nn.Module]]:
    trunk = encoder.trunk
    pyramid = trunk.backbone.fpn
    return {
        "backbone": [trunk.backbone.body],
        "pyramid": [*pyramid.inner_blocks, *pyramid.layer_blocks],
        "head": [trunk.roi_heads.box_head],
        "projector": [encoder.projector],
    }


def count_flops(parts: Mapping[str, Sequence[nn.Module]], step: Callable[[], Any]) -> dict[str, int]:
    """part -> FLOPs (a multiplication and an addition are two) of one call of ``step``."""
    with FlopCounterMode(display=False) as counter, PartMeter(parts, counter.get_total_flops) as meter:
        step()
    return {part: int(meter.totals[part]) for part in (*parts, REST)}


def time_parts(
    parts: Mapping[str, Sequence[nn.Module]],
    step: Callable[[], Any],
    optimizer: torch.optim.Optimizer,
    wait: Callable[[], None],
) -> dict[str, float]:
    """part -> seconds of one call of ``step``; ``optimizer`` is a part of its own.

    Waiting for a GPU between parts takes away overlap, so the sum may exceed an undisturbed step.
    """

    def now() -> float:
        wait()
        return time.perf_counter()

    with PartMeter(parts, now) as meter:
        before = optimizer.register_step_pre_hook(lambda *_: meter.switch("optimizer"))
        after = optimizer.register_step_post_hook(lambda *_: meter.switch(REST))
        try:
            step()
        finally:
            before.remove()
            after.remove()
    return {part: meter.totals[part] for part in (*parts, "optimizer", REST)}


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        yield from _tensors(values.values())
    elif isinstance(values, Iterable) and not isinstance(values, str | bytes):
        for value in values:
            yield from _tensors(value)


def _nodes_between(outside: set, start: set) -> list:
    """Autograd nodes from ``start`` down to the parameters, without ``outside`` and what lies behind it."""
    stack, seen = [node for node in start if node is not None], set(outside) | {None}
    found = []
    while stack:
        node = stack.pop()
        if node in seen or hasattr(
            node, "variable"
        ):  # AccumulateGrad lives on with its parameter, hooks and all
            continue
        seen.add(node)
        found.append(node)
        stack += [following for following, _ in node.next_functions]
    return found
