"""montage.png: what the first batch looks like, so that a wrong folder or setting is seen at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mcl.methods.mcl.montage import Shuffle, assemble, stack

CANVASES = 4  # shown of each scale
SIDE = 224  # pixels a canvas is shown at, at least
MARGIN, LABEL = 8, 26
UNCHANGED = (0, 0, 0), (1 / 255,) * 3  # mean and std that give back the pixels


def draw_montages(
    path: Path,
    tiles: Mapping[int, Mapping[int, Tensor]],
    shuffles: Mapping[int, Shuffle],
    apart: bool = False,
) -> Path:
    """Draw the first canvases of every scale, view 1 left and view 2 right, and write a PNG; returns its path.

    Args:
        path: file to write.
        tiles: view -> scale s -> (N, 3, S/s, S/s) uint8.
        shuffles: view -> image of each tile.
        apart: the network sees each tile as an image of its own, so they are drawn apart.
    """
    blocks = {view: (_tiles if apart else _canvases)(tiles[view], shuffles[view]) for view in tiles}
    scales = sorted(blocks[1])
    columns = max(len(block[scale]) for block in blocks.values() for scale in scales)
    width = len(blocks) * (columns * (SIDE + MARGIN) + 3 * MARGIN) + MARGIN
    sheet = Image.new("RGB", (width, len(scales) * (SIDE + LABEL + MARGIN) + MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for row, scale in enumerate(scales):
        top = MARGIN + row * (SIDE + LABEL + MARGIN)
        for view, block in blocks.items():
            left = MARGIN + (view - 1) * (columns * (SIDE + MARGIN) + 3 * MARGIN)
            side = tiles[view][1].shape[-1] // scale
            text = (
                f"view {view}, full-size images"
                if scale == 1
                else f"view {view}, scale {scale}: {'images' if apart else f'{scale} x {scale} tiles'}"
            )
            draw.text((left, top + 3), f"{text} of {side} px", "black", font)
            for column, canvas in enumerate(block[scale]):
                sheet.paste(canvas, (left + column * (SIDE + MARGIN), top + LABEL))
    sheet.save(path)
    return path


def _canvases(tiles: Mapping[int, Tensor], shuffle: Shuffle) -> dict[int, list[Image.Image]]:
    # The canvases that the network gets, not a drawing of them.
    pixels = _as_pixels(assemble(tiles, shuffle, *UNCHANGED))
    shown, start = {}, 0
    for scale, labels in sorted(shuffle.labels.items()):
        count = len(labels) // scale**2
        shown[scale] = [_enlarge(pixels[start + i]) for i in range(min(count, CANVASES))]
        start += count
    return shown


def _tiles(tiles: Mapping[int, Tensor], shuffle: Shuffle) -> dict[int, list[Image.Image]]:
    shown = {}
    for scale, images in stack(tiles, shuffle, *UNCHANGED).items():
        count = min(len(images) // scale**2, CANVASES)
        pixels = _as_pixels(images[: count * scale**2])
        sheets = pixels.reshape(count, scale, scale, *pixels.shape[1:])
        shown[scale] = [_enlarge(np.concatenate([_row(row) for row in sheet])) for sheet in sheets]
    return shown


def _row(tiles: np.ndarray) -> np.ndarray:
    """(n, t, t, 3) -> one picture, white below and right of each tile where there are several."""
    if len(tiles) == 1:
        return tiles[0]
    gap = max(1, tiles.shape[1] // 8)
    return np.concatenate(list(np.pad(tiles, ((0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)), axis=1)


def _as_pixels(images: Tensor) -> np.ndarray:
    return images.round().byte().permute(0, 2, 3, 1).numpy()


def _enlarge(pixels: np.ndarray) -> Image.Image:
    # Nearest, so that a tile's real pixels are seen.
    return Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.NEAREST)
