"""montage.png: what the first batch looks like, so that a wrong folder or setting is seen at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mcl.methods.mcl.scattered import Places, scatter
from mcl.methods.montage import Shuffle, assemble, stack

CANVASES = 4  # shown of each scale
SIDE = 224  # pixels a canvas is shown at, at least
MARGIN, LABEL = 8, 26
UNCHANGED = (0, 0, 0), (1 / 255,) * 3  # mean and std that give back the pixels

Shown = Mapping[int, list[Image.Image]]  # scale -> its first canvases


def draw_canvases(path: Path, blocks: Mapping[int, Shown], captions: Mapping[int, str]) -> Path:
    """Draw canvases of every scale, view 1 left and view 2 right, and write a PNG; returns its path.

    Args:
        path: file to write.
        blocks: view -> what is shown of it.
        captions: scale -> what its canvases are.
    """
    columns = max(len(canvases) for block in blocks.values() for canvases in block.values())
    width = len(blocks) * (columns * (SIDE + MARGIN) + 3 * MARGIN) + MARGIN
    sheet = Image.new("RGB", (width, len(captions) * (SIDE + LABEL + MARGIN) + MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for row, (scale, caption) in enumerate(captions.items()):
        top = MARGIN + row * (SIDE + LABEL + MARGIN)
        for view, block in blocks.items():
            left = MARGIN + (view - 1) * (columns * (SIDE + MARGIN) + 3 * MARGIN)
            draw.text((left, top + 3), f"view {view}, {caption}", "black", font)
            for column, canvas in enumerate(block[scale]):
                # Nearest, so that a tile's real pixels are seen.
                shown = canvas.resize((SIDE, SIDE), Image.Resampling.NEAREST)
                sheet.paste(shown, (left + column * (SIDE + MARGIN), top + LABEL))
    sheet.save(path)
    return path


def montages(tiles: Mapping[int, Tensor], shuffle: Shuffle) -> Shown:
    """Tiles (scale s -> (N, 3, S/s, S/s) uint8) as they lie on a grid: the canvases that the network gets."""
    return _by_scale(_as_pixels(assemble(tiles, shuffle, *UNCHANGED)), shuffle)


def tiles_apart(tiles: Mapping[int, Tensor], shuffle: Shuffle) -> Shown:
    """Tiles that are images of their own, scale^2 of them on a sheet with white between them."""
    shown = {}
    for scale, images in stack(tiles, shuffle, *UNCHANGED).items():
        count = min(len(images) // scale**2, CANVASES)
        pixels = _as_pixels(images[: count * scale**2])
        sheets = pixels.reshape(count, scale, scale, *pixels.shape[1:])
        shown[scale] = [Image.fromarray(np.concatenate([_row(row) for row in sheet])) for sheet in sheets]
    return shown


def scattered(tiles: Mapping[int, Tensor], shuffle: Shuffle, places: Places) -> Shown:
    """Tiles as they are scattered; on every second canvas with their boxes, which the network does not see."""
    shown = _by_scale(_as_pixels(scatter(tiles, shuffle, places, *UNCHANGED)), shuffle)
    for scale, boxes in places.boxes.items():
        for canvas, of_canvas in list(zip(shown[scale], boxes.tolist(), strict=False))[1::2]:
            draw = ImageDraw.Draw(canvas)
            for left, top, right, bottom in of_canvas:
                draw.rectangle((left, top, right - 1, bottom - 1), outline="red")
    return shown


def captions(image_size: int, scales: tuple[int, ...], layout: str) -> dict[int, str]:
    """scale -> what its canvases are."""
    side = {scale: f"{image_size // scale} px" for scale in scales}
    what = {
        "montage": lambda s: f"scale {s}: {s} x {s} tiles of {side[s]}",
        "batch": lambda s: f"scale {s}: images of {side[s]}",
        "scattered": lambda s: f"scale {s}: {s * s} tiles of about {side[s]}",
    }[layout]
    return {scale: what(scale) if scale > 1 else f"full-size images of {side[scale]}" for scale in scales}


def _by_scale(pixels: np.ndarray, shuffle: Shuffle) -> Shown:
    shown, start = {}, 0
    for scale, labels in sorted(shuffle.labels.items()):
        count = len(labels) // scale**2
        shown[scale] = [Image.fromarray(pixels[start + i]) for i in range(min(count, CANVASES))]
        start += count
    return shown


def _row(tiles: np.ndarray) -> np.ndarray:
    """(n, t, t, 3) -> one picture, white below and right of each tile where there are several."""
    if len(tiles) == 1:
        return tiles[0]
    gap = max(1, tiles.shape[1] // 8)
    return np.concatenate(list(np.pad(tiles, ((0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)), axis=1)


def _as_pixels(images: Tensor) -> np.ndarray:
    return images.round().byte().permute(0, 2, 3, 1).contiguous().numpy()
