"""VICReg (arXiv 2105.04906) between tiles and targets: no negatives, no target network, gradient on both sides."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mcl.methods.level_loss import LevelLoss, agreement, over_positives
from mcl.methods.losses import at_least_fp32, unit

LEAST_DEVIATION, EPSILON = 1.0, 1e-4  # gamma and epsilon of equations 1 and 2


def vicreg(
    tiles: Tensor,
    labels: Tensor,
    others: Tensor,
    other_labels: Tensor,
    weights: Sequence[float],
    weight: float,
) -> LevelLoss:
    """w (lambda / E * s(Z, Z') / 2 + mu v(Z) + nu c(Z)) of a level's tiles in one view; half of equation 6 for one scale.

    Variance and covariance are those of the tiles alone: the other view's are in the other direction's loss. As the
    authors' code has it, lambda is shared by the E coordinates.

    Args:
        tiles: (n, E) embeddings of one scale and view, of the whole batch.
        labels: (n,) image of each.
        others: (M, E) embeddings of the other view that the assignment names.
        other_labels: (M,) image of each.
        weights: lambda, mu, nu.
        weight: w of the level.
    """
    z, other = at_least_fp32(tiles), at_least_fp32(others)
    positive = labels[:, None] == other_labels[None, :]
    far, narrow, related = weights
    invariance = over_positives(squared_distances(z, other), positive) / (2 * z.shape[1])
    loss = weight * (far * invariance + narrow * variance(z) + related * covariance(z))
    return LevelLoss(loss, *agreement(unit(z.detach()) @ unit(other.detach()).T, positive))


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|^2: (n, E), (M, E) -> (n, M)."""
    return a.square().sum(dim=1)[:, None] + b.square().sum(dim=1)[None] - 2 * a @ b.T


def variance(z: Tensor) -> Tensor:
    """Mean over coordinates of max(0, gamma - sqrt(Var + epsilon)) (equations 1 and 2): (n, E) -> 0-d."""
    deviation = (z.var(dim=0) + EPSILON).sqrt()
    return (LEAST_DEVIATION - deviation).clamp(min=0).mean()


def covariance(z: Tensor) -> Tensor:
    """Sum of squares of the covariance matrix off its diagonal, over E (equations 3 and 4): (n, E) -> 0-d."""
    centred = z - z.mean(dim=0)
    matrix = centred.T @ centred / (len(z) - 1)
    return (matrix.square().sum() - matrix.diagonal().square().sum()) / z.shape[1]
