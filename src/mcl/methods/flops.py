"""What a pre-training step costs in FLOPs, and how much of it each component of a method takes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mcl.methods.build import Recipe
from mcl.methods.step import TrainingStep

REST = "rest"  # what lies around the networks: montages, loss, optimizer, EMA


class ComponentMeter:
    """Charges what a growing number (FLOPs so far, seconds so far) grows by to the component at work.

    Forward, a module's hooks say which component is at work; backward, hooks on the autograd nodes that the module
    made. (FlopCounterMode's own split by module follows gradients of a module's inputs, and a backbone's input
    has none.)
    """

    def __init__(self, components: Mapping[str, Sequence[nn.Module]], read: Callable[[], float]) -> None:
        self.components, self.read = components, read
        self.totals: dict[str, float] = defaultdict(float)

    def __enter__(self) -> ComponentMeter:
        self._handles, self._at_work, self._last = [], REST, self.read()
        for name, modules in self.components.items():
            for module in modules:
                self._handles.append(module.register_forward_pre_hook(self._enter(name)))
                self._handles.append(module.register_forward_hook(self._leave(name)))
        return self

    def __exit__(self, *_) -> None:
        self.switch(REST)
        for handle in self._handles:
            handle.remove()

    def switch(self, name: str) -> None:
        """From now on ``name`` is at work."""
        now = self.read()
        self.totals[self._at_work] += now - self._last
        self._at_work, self._last = name, now

    def _enter(self, name: str) -> Callable:
        return lambda module, inputs: self.switch(name)

    def _leave(self, name: str) -> Callable:
        def leave(module: nn.Module, inputs: Any, outputs: Any) -> None:
            self.switch(REST)
            outside = {tensor.grad_fn for tensor in _tensors(inputs)}
            for node in _nodes_between(outside, {tensor.grad_fn for tensor in _tensors(outputs)}):
                node.register_prehook(lambda *_: self.switch(name))
                node.register_hook(lambda *_: self.switch(REST))

        return leave


def count_flops(components: Mapping[str, Sequence[nn.Module]], step: Callable[[], Any]) -> dict[str, int]:
    """component -> FLOPs (a multiplication and an addition are two) of one call of ``step``."""
    with FlopCounterMode(display=False) as counter, ComponentMeter(components, counter.get_total_flops) as meter:
        step()
    return {name: int(meter.totals[name]) for name in (*components, REST)}


def step_flops(settings: Recipe) -> dict[str, int]:
    """component -> FLOPs of a step's forward and backward, counted on tensors without data."""
    step = TrainingStep(settings, "meta")
    return count_flops(step.method.components(), step.gradients_only)


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
