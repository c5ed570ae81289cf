"""Gradients averaged over processes, sent while backward still computes the rest."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mcl.engine.processes.distributed import process_count

BUCKET_MB = 25


class GradientAverage:
    """Averages the gradients of parameters over all processes; alone it does nothing.

    torch's DDP does the work. It is given a module whose ``forward`` hands the loss through: from the loss it finds the
    parameters that take part, however the loss was computed. (It sees gradients only after such a forward, so the
    backwards of earlier micro-batches just add to ``grad``.)
    A parameter without a gradient on any process keeps none: an optimizer with weight decay must leave it alone.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], bucket_mb: float = BUCKET_MB) -> None:
        self._ddp: DistributedDataParallel | None = None
        if process_count() > 1:
            self._ddp = DistributedDataParallel(
                _Through(parameters), find_unused_parameters=True, bucket_cap_mb=bucket_mb
            )

    def last(self, loss: Tensor) -> Tensor:
        """The loss for the last backward of a step: when that ends, every ``grad`` holds the average."""
        return loss if self._ddp is None else self._ddp(loss)


class _Through(nn.Module):
    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__()
        trained = [p for p in parameters if p.requires_grad]
        # One that no loss uses: if there is none, DDP warns of that on every process.
        unused = nn.Parameter(torch.zeros((), dtype=trained[0].dtype, device=trained[0].device))
        self.all = nn.ParameterList([*trained, unused])

    def forward(self, loss: Tensor) -> Tensor:
        return loss
