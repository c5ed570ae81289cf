"""The numbers of each level that a step logs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mcl.methods.level_loss import LevelLoss
from mcl.methods.mcl.tiles import VIEWS


def level_numbers(levels: Mapping[tuple[int, int], LevelLoss], names: Mapping[int, str]) -> dict[str, Tensor]:
    """Loss, cosines and accuracy of every level (``loss/p5`` ...), and the accuracy that guessing gives (``chance``).

    Args:
        levels: (view, scale) -> loss, of both views or of one.
        names: of the level of each of the method's scales.
    """
    numbers = {}
    for scale, name in names.items():
        of_scale = [level for (_, level_scale), level in levels.items() if level_scale == scale]
        # The loss of a level is the sum over views; of one view alone twice its own, so that the mean is the sum.
        loss = torch.stack([level.loss.detach() for level in of_scale]).mean()
        numbers[f"loss/{name}"] = len(VIEWS) * loss
        for what in ("positive_cosine", "negative_cosine", "accuracy"):
            numbers[f"{what}/{name}"] = torch.stack([getattr(level, what) for level in of_scale]).mean()
    numbers["chance"] = torch.stack([level.chance for level in levels.values()]).mean()
    return numbers
