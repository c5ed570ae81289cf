"""How far training has turned a trunk's weights from where they started."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mcl.nn.parts import BODY, FPN, HEAD
from mcl.nn.trunk import Trunk

PREFIXES = {"backbone": BODY, "pyramid": FPN, "head": HEAD}


class StartingWeights:
    """A copy of the weights that a trunk has now: kernels and matrices that are trained.

    (Biases and norms are left out: a norm's weights start at one, all of them alike, and would hide what kernels do.)
    """

    def __init__(self, trunk: Trunk) -> None:
        self.start = {part: [w.detach().clone() for w in weights] for part, weights in _weights(trunk).items()}

    @torch.no_grad()
    def turned(self, trunk: Trunk) -> dict[str, float]:
        """``turned/backbone``, ``turned/pyramid``, ``turned/head``: degrees between a part's weights then and now.

        A part's weights are taken as one long vector; a part of which nothing is trained has no number.
        """
        now = _weights(trunk)
        return {f"turned/{part}": angle(start, now[part]) for part, start in self.start.items() if start}


def angle(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Degrees between two vectors given in pieces: 2 atan2(|a/|a| - b/|b||, |a/|a| + b/|b||).

    (Exact for small angles too, where the arc cosine of a cosine in fp32 cannot tell 0 from 0.03.)
    """
    long_a, long_b = (_length(pieces).clamp(min=1e-30) for pieces in (a, b))  # weights may all have gone to nothing
    apart = _length([x.float() / long_a - y.float() / long_b for x, y in zip(a, b, strict=True)])
    along = _length([x.float() / long_a + y.float() / long_b for x, y in zip(a, b, strict=True)])
    return math.degrees(2 * math.atan2(float(apart), float(along)))


def _length(pieces: Sequence[Tensor]) -> Tensor:
    return torch.stack([piece.float().norm() for piece in pieces]).norm()


def _weights(trunk: Trunk) -> dict[str, list[Tensor]]:
    named = [(name, weight) for name, weight in trunk.named_parameters() if weight.requires_grad and weight.ndim > 1]
    return {part: [w for name, w in named if name.startswith(prefix)] for part, prefix in PREFIXES.items()}
