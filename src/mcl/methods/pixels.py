"""Pixels of a batch as networks take them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype) -> Tensor:
    """(x - 255 mean) / (255 std) for uint8 (B, 3, H, W), in the memory format of ``pixels``."""
    shape = (1, 3, 1, 1)
    centre = torch.tensor([255 * m for m in mean], dtype=dtype, device=pixels.device).view(shape)
    spread = torch.tensor([255 * s for s in std], dtype=dtype, device=pixels.device).view(shape)
    return torch.sub(pixels, centre).div_(spread)
