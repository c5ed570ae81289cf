"""An exponential moving average of a detector's weights, to be measured and exported instead of the last ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class AveragedWeights:
    """Averages of all parameters and BatchNorm statistics; whole numbers (counters) are copied.

    After update n = 1, 2, ... average += (1 - d) (weights - average), with d = min(decay, (1 + n) / (10 + n)): an average
    over few updates must not remember the random start (the rule of TensorFlow's ``ExponentialMovingAverage``).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """After step 0, 1, ..."""
        weight = 1.0 - min(self.decay, (step + 2) / (step + 11))
        now = module.state_dict()
        moved = [name for name, value in self.values.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.values[name] for name in moved], [now[name] for name in moved], weight)
        for name in self.values.keys() - moved:
            self.values[name].copy_(now[name])

    @torch.no_grad()
    def copy_into(self, module: nn.Module) -> None:
        """Give the averages to a module."""
        for name, tensor in module.state_dict().items():
            tensor.copy_(self.values[name])

    @contextmanager
    def inside(self, module: nn.Module) -> Iterator[None]:
        """Within the block the module has the averages; afterwards it has its own values again, bit for bit."""
        own = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        self.copy_into(module)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in module.state_dict().items():
                    tensor.copy_(own[name])

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Continue from averages of before."""
        for name, value in self.values.items():
            value.copy_(values[name])
