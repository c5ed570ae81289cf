"""Pixels of a batch as networks take them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype) -> Tensor:
    """(x - 255 mean) / (255 std) for uint8 (B, 3, H, W), in the memory format of ``pixels``."""
    # Made here and sent: a tensor that is made there from a list is waited for.
    made = torch.tensor([mean, std], dtype=torch.float64).mul_(255).to(dtype)
    centre, spread = made.to(pixels.device, non_blocking=True).view(2, 1, 3, 1, 1)
    return torch.sub(pixels, centre).div_(spread)
