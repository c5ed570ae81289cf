"""Projector and predictors (method: Network)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class LevelWise(nn.Sequential):
    """Layers that see the windows of all levels together, except BatchNorms in training: those see level by level.

    A convolution over few windows of few cells leaves half the machine idle; joined, the levels fill it. Every level
    keeps batch statistics of its own, in the order given, exactly as if the levels came one after the other.
    """

    def forward(self, x: Tensor, counts: Sequence[int] = ()) -> Tensor:
        """(n, ...) -> (n, ...); ``counts``: rows of each level, none: all rows are one level."""
        for layer in self:
            x = _run(layer, x, counts)
        return x


def _run(layer: nn.Module, x: Tensor, counts: Sequence[int]) -> Tensor:
    if isinstance(layer, nn.Sequential):
        for inner in layer:
            x = _run(inner, x, counts)
        return x
    if isinstance(layer, _BatchNorm) and layer.training and len(counts) > 1:
        return torch.cat([layer(level) for level in x.split(list(counts))])
    return layer(x)


def build_projector(channels: int, hidden: int, embedding: int) -> LevelWise:
    """Linear BN ReLU Linear BN(affine=False); Kaiming normal (fan in) weights, zero biases. (n, C) -> (n, E)."""
    projector = LevelWise(
        nn.Linear(channels, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, embedding),
        nn.BatchNorm1d(embedding, affine=False),
    )
    for module in (projector[0], projector[3]):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        nn.init.zeros_(module.bias)
    return projector


def build_predictor(hidden: int, embedding: int) -> nn.Sequential:
    """Linear BN ReLU Linear, N(0, 0.01) weights and zero biases; one for each level. (n, E) -> (n, E)."""
    predictor = nn.Sequential(
        nn.Linear(embedding, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, embedding),
    )
    for module in (predictor[0], predictor[3]):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)
    return predictor
