"""Gradients averaged over processes, sent while backward still computes the rest."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mcl.engine.distributed import process_count

BUCKET_BYTES = 25 * 2**20


class GradientAverage:
    """Averages the gradients of parameters over all processes; alone it does nothing.

    Parameters are put into buckets, last ones first, for backward reaches those first. From ``start`` on a bucket is
    sent as soon as backward has filled it (and those before it, so that every process sends in the same order).
    A parameter without a gradient on any process keeps none: an optimizer with weight decay must leave it alone.

    (DDP sees gradients only through the ``forward`` of the module it wraps, and gives every parameter a gradient.)
    """

    def __init__(self, parameters: Iterable[nn.Parameter], bucket_bytes: int = BUCKET_BYTES) -> None:
        self._buckets: list[_Bucket] = []
        self._next: int | None = None  # bucket to send next, while gradients of a last backward are awaited
        if process_count() == 1:
            return
        for group in _group(reversed([p for p in parameters if p.requires_grad]), bucket_bytes):
            bucket = _Bucket(group)
            self._buckets.append(bucket)
            for parameter in group:
                parameter.register_post_accumulate_grad_hook(lambda _, bucket=bucket: self._filled(bucket))

    def start(self) -> None:
        """Call before the last backward of a step (earlier ones, of micro-batches, only add to ``grad``)."""
        self._next = 0
        for bucket in self._buckets:
            bucket.missing = len(bucket.parameters)

    def finish(self) -> None:
        """Send what is left, wait, and put the averages into ``grad``."""
        for bucket in self._buckets[self._next :]:
            bucket.send()
        self._next = None
        for bucket in self._buckets:
            bucket.receive()

    def _filled(self, bucket: _Bucket) -> None:
        if self._next is None:
            return
        bucket.missing -= 1
        while self._next < len(self._buckets) and self._buckets[self._next].missing == 0:
            self._buckets[self._next].send()
            self._next += 1


class _Bucket:
    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.missing = len(parameters)

    def send(self) -> None:
        """Start adding up (gradients, and which there are) over all processes."""
        grads = [p.grad for p in self.parameters]
        first = self.parameters[0]
        there = torch.tensor([g is not None for g in grads], dtype=first.dtype).to(first.device, non_blocking=True)
        flat = [torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, grads, strict=True)]
        self._sum = torch.cat([*(g.flatten() for g in flat), there])
        self._work = dist.all_reduce(self._sum, async_op=True)

    def receive(self) -> None:
        """Wait, and write the averages back."""
        self._work.wait()
        sizes = [p.numel() for p in self.parameters]
        *averages, there = self._sum.div_(process_count()).split([*sizes, len(sizes)])
        old: list[Tensor] = []
        new: list[Tensor] = []
        for position, (parameter, average) in enumerate(zip(self.parameters, averages, strict=True)):
            if parameter.grad is not None:
                old.append(parameter.grad)
                new.append(average.view_as(parameter))
            elif there[position] > 0:
                parameter.grad = average.view_as(parameter).clone()
        if old:
            torch._foreach_copy_(old, new)
        del self._sum, self._work


def _group(parameters: Iterable[nn.Parameter], limit: int) -> list[list[nn.Parameter]]:
    """Runs of parameters of one type and device with at most ``limit`` bytes (or one parameter)."""
    groups: list[list[nn.Parameter]] = []
    size = 0
    for parameter in parameters:
        size += parameter.numel() * parameter.element_size()
        alike = groups and (parameter.dtype, parameter.device) == (groups[-1][0].dtype, groups[-1][0].device)
        if not alike or size > limit:
            groups.append([])
            size = parameter.numel() * parameter.element_size()
        groups[-1].append(parameter)
    return groups
