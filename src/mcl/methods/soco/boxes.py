"""Which objects a step looks at, and where they are in each view."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mcl.methods.regions import pick

JITTERS = 5  # numbers that a box's jitter needs
LEAST = 1e-3  # side of a box as a fraction of the view, below which it is none


def choose(boxes: Tensor, count: Tensor, crops: Sequence[Tensor], chances: Tensor) -> Tensor:
    """Draw objects whose middle all crops show; where there is none, what all crops have in common is the object.

    Args:
        boxes: (N, P, 4) left, top, right, bottom as fractions of the image.
        count: (N,) how many of the P there are.
        crops: (N, 5) each, of ``batch["crops"]``.
        chances: (N, K) in 0..1.

    Returns:
        (N, K, 4), drawn with replacement.
    """
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    there = torch.arange(boxes.shape[1], device=boxes.device) < count[:, None]
    for crop in crops:
        there = there & (middle >= crop[:, None, :2]).all(dim=2) & (middle <= crop[:, None, 2:4]).all(dim=2)
    places = pick(there, chances)
    drawn = boxes.gather(1, places[..., None].expand(-1, -1, 4))
    first = torch.stack([crop[:, :2] for crop in crops]).amax(dim=0)
    last = torch.stack([crop[:, 2:4] for crop in crops]).amin(dim=0)
    common = torch.cat([first, last], dim=1)[:, None].expand_as(drawn)
    return torch.where(there.any(dim=1)[:, None, None], drawn, common.to(drawn.dtype))


def jitter(boxes: Tensor, chances: Tensor, probability: float, ratio: float) -> Tensor:
    """Box jitter (section 3.3): x + r w, y + r h, w + r w, h + r h, each r uniform in -ratio .. ratio.

    Args:
        boxes: (N, K, 4).
        chances: (N, K, 5) in 0..1: whether, and four r.
    """
    place, size = boxes[..., :2], boxes[..., 2:] - boxes[..., :2]
    shift, growth = ((2 * chances[..., 1:] - 1) * ratio).to(boxes.dtype).split(2, dim=-1)
    moved = place + shift * size
    jittered = torch.cat([moved, moved + (1 + growth) * size], dim=-1)
    return torch.where(chances[..., :1] < probability, jittered, boxes)


def in_view(boxes: Tensor, crops: Tensor) -> Tensor:
    """(N, K, 4) fractions of the image -> of the view, mirrored as it is, cut off at its edges; (N, 5) crops.

    A box that the view does not show becomes the whole view.
    """
    corner, size = crops[:, None, :2], (crops[:, 2:4] - crops[:, :2])[:, None]
    inside = torch.cat([(boxes[..., :2] - corner) / size, (boxes[..., 2:] - corner) / size], dim=-1)
    left, top, right, bottom = inside.unbind(dim=-1)
    mirrored = crops[:, 4:5] > 0
    left, right = torch.where(mirrored, 1 - right, left), torch.where(mirrored, 1 - left, right)
    cut = torch.stack([left, top, right, bottom], dim=-1).clamp(0, 1)
    shown = ((cut[..., 2:] - cut[..., :2]) > LEAST).all(dim=-1, keepdim=True)
    return torch.where(shown, cut, cut.new_tensor([0.0, 0.0, 1.0, 1.0]))
