"""Montages: tiles of many images side by side on one canvas, so that place and scale are known without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mcl.methods.pixels import normalise

REPEATS: Mapping[int, int] = {8: 2}


@dataclass(frozen=True)
class Shuffle:
    """Which image each tile of each scale shows.

    Attributes:
        labels: scale -> (montages * scale^2,) image indices in 0..batch-1; scale 1 is the identity.
    """

    labels: Mapping[int, Tensor]


def count_montages(
    batch: int,
    scales: Sequence[int],
    repeats: Mapping[int, int] = REPEATS,
    fixed: Mapping[int, int] | None = None,
) -> dict[int, int]:
    """Montages of each scale (method: Montages).

    Every image is a tile once for scales 1, 2, 4 and twice for 8, so a batch of N makes N, N/4, N/16, N/32.
    Other batch sizes round down, but never below one montage; tiles then wrap around.

    Args:
        batch: images on this process.
        scales: tiles per side.
        repeats: scale -> how often an image is a tile; once where it names no number.
        fixed: scale -> number of montages, whatever the batch; comes before ``repeats``.
    """
    counts = {}
    for scale in scales:
        fitting = max(1, batch * repeats.get(scale, 1) // scale**2)
        counts[scale] = batch if scale == 1 else (fixed or {}).get(scale, fitting)
    return counts


def uneven_tiles(montages: Mapping[int, int]) -> str:
    """Scales whose tiles are no multiple of the images (scale 1), in words; empty if there are none."""
    images = montages[1]
    return "; ".join(
        f"scale {scale}: {count * scale**2} tiles" for scale, count in montages.items() if count * scale**2 % images
    )


def draw_permutation(scale: int, montages: int, generator: torch.Generator) -> Tensor:
    """A random permutation of the scale^2 * montages tiles of one scale, on the CPU."""
    return torch.randperm(scale**2 * montages, generator=generator)


def shuffle_from(permutations: Mapping[int, Tensor], batch: int) -> Shuffle:
    """Image of each tile: the permutation modulo the batch; scale 1 shows every image once, in order.

    Args:
        permutations: scale (above 1) -> permutation of its tiles.
        batch: N, images on this process.
    """
    labels = {1: torch.arange(batch)}
    labels.update({scale: permutation.long() % batch for scale, permutation in sorted(permutations.items())})
    return Shuffle(labels)


def assemble(
    tiles: Mapping[int, Tensor],
    shuffle: Shuffle,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype = torch.float32,
    channels_last: bool = True,
) -> Tensor:
    """Lay tiles into canvases and normalise them, on the tiles' device.

    Args:
        tiles: scale s -> (N, 3, S/s, S/s) uint8.
        shuffle: image of each tile; s^2 consecutive tiles fill a montage row by row.
        mean, std: of RGB values in 0..1.
        dtype: of the result.
        channels_last: memory format of the result.

    Returns:
        (B, 3, S, S): N full-size images, then the montages of each scale in ascending order.
    """
    size = tiles[1].shape[-1]
    total = sum(len(labels) // scale**2 for scale, labels in shuffle.labels.items())
    layout = torch.channels_last if channels_last else torch.contiguous_format
    canvases = torch.empty(
        (total, 3, size, size), dtype=torch.uint8, device=tiles[1].device, memory_format=layout
    )
    start = 0
    for scale, labels in sorted(shuffle.labels.items()):
        stop = start + len(labels) // scale**2
        _lay_into(tiles[scale], labels, scale, canvases[start:stop])
        start = stop
    return normalise(canvases, mean, std, dtype)


def stack(
    tiles: Mapping[int, Tensor],
    shuffle: Shuffle,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype = torch.float32,
    channels_last: bool = True,
) -> dict[int, Tensor]:
    """The tiles that ``assemble`` would lay into canvases, each an image of its own, in the same order.

    Args:
        tiles, shuffle, mean, std, dtype, channels_last: as for ``assemble``.

    Returns:
        scale s -> (montages * s^2, 3, S/s, S/s), normalised.
    """
    memory = torch.channels_last if channels_last else torch.contiguous_format
    chosen = {s: tiles[s][labels.to(tiles[s].device, non_blocking=True)] for s, labels in sorted(shuffle.labels.items())}
    return {s: normalise(pixels.contiguous(memory_format=memory), mean, std, dtype) for s, pixels in chosen.items()}


def lay(tiles: Tensor, labels: Tensor, scale: int) -> Tensor:
    """Tiles (N, 3, t, t) uint8, chosen by (b * s^2,) labels, on canvases of one scale: (b, 3, s * t, s * t), on their device."""
    side = scale * tiles.shape[-1]
    canvases = tiles.new_empty((len(labels) // scale**2, tiles.shape[1], side, side))
    _lay_into(tiles, labels, scale, canvases)
    return canvases


def first_places(labels: Tensor, images: int) -> Tensor:
    """(images,) the first tile that shows each image; labels (tiles,) name every one of them."""
    places = torch.arange(len(labels), device=labels.device)
    return places.new_full((images,), len(labels)).scatter_reduce(0, labels, places, "amin")


def _lay_into(tiles: Tensor, labels: Tensor, scale: int, canvases: Tensor) -> None:
    """Copy tiles (N, 3, t, t), chosen by (b * s^2,) labels, to their places in (b, 3, s * t, s * t)."""
    if scale == 1:
        canvases.copy_(tiles)
        return
    side = tiles.shape[-1]
    places = canvases.unflatten(3, (scale, side)).unflatten(2, (scale, side)).permute(0, 2, 4, 1, 3, 5)
    places.copy_(tiles[labels.to(tiles.device, non_blocking=True)].view(-1, scale, scale, 3, side, side))
