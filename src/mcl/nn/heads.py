"""Projector and predictors (method: Network)."""

from __future__ import annotations

from torch import nn


def build_projector(channels: int, hidden: int, embedding: int) -> nn.Sequential:
    """Linear BN ReLU Linear BN(affine=False); Kaiming normal (fan in) weights, zero biases. (n, C) -> (n, E)."""
    projector = nn.Sequential(
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
