"""Canvases with tiles of irregular sizes and places, laid on another image with soft edges (layout ``scattered``)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mcl.methods.montage import Shuffle
from mcl.methods.pixels import normalise

LARGEST = 1.4  # side of a tile over that of a montage's, at most
GAP = 0.15  # of a side may show the background, on each side
SOFT = 0.12  # of a tile's shorter side may be an edge that fades out


@dataclass(frozen=True)
class Places:
    """Where the tiles of one view lie, and what is behind them.

    Attributes:
        boxes: scale (above 1) -> (canvases, scale^2, 4) left, top, right, bottom in whole pixels of the canvas.
        soft: scale -> (canvases, scale^2) pixels over which a tile's edge fades out, at least 1.
        behind: scale -> (canvases,) image whose full-size view is behind the tiles.
    """

    boxes: Mapping[int, Tensor]
    soft: Mapping[int, Tensor]
    behind: Mapping[int, Tensor]


def tile_side(image_size: int, scale: int) -> int:
    """Side in pixels at which a scattered tile is asked for: no tile is enlarged."""
    return image_size if scale == 1 else math.ceil(LARGEST * image_size / scale)


def draw_places(
    scale: int, canvases: int, image_size: int, images: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, soft edges and backgrounds (see ``Places``) of the canvases of one scale."""
    cells = torch.stack([guillotine(scale, image_size, generator) for _ in range(canvases)])  # (canvases, s^2, 4)
    sides = (cells[..., 2:] - cells[..., :2]).repeat(1, 1, 2)  # width, height, width, height
    gaps = GAP * sides * torch.rand(cells.shape, generator=generator)
    gaps *= torch.rand(cells.shape, generator=generator) < 0.5  # tiles touch as often as not
    inwards = torch.tensor([1.0, 1.0, -1.0, -1.0])
    boxes = (cells + inwards * gaps).round()
    shorter = (boxes[..., 2:] - boxes[..., :2]).amin(dim=-1)
    soft = 1 + SOFT * shorter * torch.rand(shorter.shape, generator=generator)
    return boxes, soft, torch.randint(0, images, (canvases,), generator=generator)


def guillotine(scale: int, side: float, generator: torch.Generator) -> Tensor:
    """A square cut into scale^2 rectangles by random cuts from edge to edge: (scale^2, 4).

    Every rectangle is cut in two, again and again, across and along in turn. A cut lies so near the middle that no
    side becomes longer than 1.4 times that of a regular grid, nor shorter than 0.6 times.
    """
    cuts = scale.bit_length() - 1  # of each side
    furthest = 0.5 * LARGEST ** (1 / cuts) - 0.5
    boxes = torch.tensor([[0.0, 0.0, side, side]])
    first = int(torch.randint(0, 2, (), generator=generator))
    for number in range(2 * cuts):
        low = (first + number) % 2  # 0: across x, 1: across y
        at = 0.5 + furthest * (2 * torch.rand(len(boxes), generator=generator) - 1)
        cut = boxes[:, low] + at * (boxes[:, low + 2] - boxes[:, low])
        before, after = boxes.clone(), boxes.clone()
        before[:, low + 2], after[:, low] = cut, cut
        boxes = torch.cat([before, after])
    return boxes[torch.randperm(len(boxes), generator=generator)]


def scatter(
    tiles: Mapping[int, Tensor],
    shuffle: Shuffle,
    places: Places,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype = torch.float32,
    channels_last: bool = True,
) -> Tensor:
    """Lay tiles at their places and normalise the canvases, on the tiles' device.

    Args:
        tiles: scale s -> (N, 3, t, t) uint8, of ``tile_side``.
        shuffle: image of each tile, canvas by canvas.
        places: of each tile.
        mean, std, dtype, channels_last: as for ``assemble``.

    Returns:
        (B, 3, S, S): N full-size images, then the canvases of each scale in ascending order.
    """
    full = tiles[1]
    layers = [full.float()]
    for scale, labels in sorted(shuffle.labels.items()):
        if scale > 1:
            canvases = full[places.behind[scale].to(full.device, non_blocking=True)].float()
            of_canvas = labels.view(len(canvases), -1).tolist()
            for canvas, shown, boxes, soft in zip(
                canvases, of_canvas, places.boxes[scale].int().tolist(), places.soft[scale].tolist(), strict=True
            ):
                for image, box, fade in zip(shown, boxes, soft, strict=True):
                    _lay(canvas, tiles[scale][image], box, fade)
            layers.append(canvases)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    pixels = torch.cat(layers).round_().to(torch.uint8).contiguous(memory_format=layout)
    return normalise(pixels, mean, std, dtype)


def _lay(canvas: Tensor, tile: Tensor, box: Sequence[int], fade: float) -> None:
    """Lay the middle of a tile (3, t, t), cut to the box's shape, into a canvas (3, S, S)."""
    left, top, right, bottom = box
    width, height, side = right - left, bottom - top, tile.shape[-1]
    shrink = max(width, height) / side
    across, along = min(side, round(width / shrink)), min(side, round(height / shrink))
    x, y = (side - across) // 2, (side - along) // 2
    shown = F.interpolate(
        tile[None, :, y : y + along, x : x + across].float(), (height, width), mode="bilinear", antialias=True
    )[0]
    alpha = _fading(height, fade, canvas)[:, None] * _fading(width, fade, canvas)[None]
    canvas[:, top:bottom, left:right].lerp_(shown, alpha.expand_as(shown))


def _fading(length: int, fade: float, like: Tensor) -> Tensor:
    """(length,) weights that rise from an edge over ``fade`` pixels to 1, and fall to the other."""
    at = torch.arange(length, dtype=like.dtype, device=like.device) + 0.5
    return (torch.minimum(at, length - at) / fade).clamp(max=1)
