"""views.png with each view's segments in colours."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mcl.methods.detconb.masks import in_view

COLOURS = 61  # segments of neighbouring numbers get far colours
TINT = 0.45


def tinted(views: Mapping[tuple[int, int], Tensor], crops: Mapping[tuple[int, int], Tensor], segments: Tensor) -> dict:
    """Views with a colour laid over each segment, the same in all views of an image: (N, 3, S, S) uint8."""
    generator = torch.Generator().manual_seed(0)
    palette = torch.randint(0, 256, (COLOURS, 3), generator=generator).float()
    found = {}
    for key, pixels in views.items():
        colours = palette[in_view(segments, crops[key], pixels.shape[-1]) % COLOURS].permute(0, 3, 1, 2)
        found[key] = torch.lerp(pixels.float(), colours, TINT).to(torch.uint8)
    return found
