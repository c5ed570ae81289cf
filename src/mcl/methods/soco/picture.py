"""views.png with the objects of the first step, each in its colour in all views."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

COLOURS = ("red", "lime", "dodgerblue", "yellow", "magenta", "cyan", "orange", "white")


def outlined(views: Mapping[tuple[int, int], Tensor], boxes: Mapping[int, Tensor]) -> dict[tuple[int, int], Tensor]:
    """Views with boxes drawn into their pixels: (N, 3, S, S) uint8; boxes by view: (N, K, 4) fractions."""
    return {key: torch.stack([_outline(*one) for one in zip(pixels, boxes[key[0]], strict=True)]) for key, pixels in views.items()}


def _outline(pixels: Tensor, boxes: Tensor) -> Tensor:
    picture = Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())
    draw, last = ImageDraw.Draw(picture), pixels.shape[-1] - 1
    for number, box in enumerate((boxes * last).round().int().tolist()):
        draw.rectangle(box, outline=COLOURS[number % len(COLOURS)], width=max(1, last // 100))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
