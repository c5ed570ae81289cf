"""views.png: the first images of the first batch, a row a view, so that a wrong folder or setting is seen at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

COLUMNS = 8  # images shown
SIDE = 160  # pixels the largest view is shown at, at least
MARGIN, LABEL = 8, 26


def draw_views(path: Path, views: Mapping[tuple[int, int], Tensor]) -> Path:
    """Draw the first images of each view and write a PNG; returns its path.

    Args:
        views: (view, scale) -> (N, 3, size, size) uint8.
    """
    largest = max(pixels.shape[-1] for pixels in views.values())
    factor = max(1, round(SIDE / largest))
    columns = min(COLUMNS, min(len(pixels) for pixels in views.values()))
    sides = [factor * pixels.shape[-1] for pixels in views.values()]
    width = MARGIN + columns * (factor * largest + MARGIN)
    sheet = Image.new("RGB", (width, MARGIN + sum(side + LABEL + MARGIN for side in sides)), "white")
    draw, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(15), MARGIN
    for ((view, _), pixels), side in zip(views.items(), sides, strict=True):
        draw.text((MARGIN, top + 3), f"view {view}, {pixels.shape[-1]} px", "black", font)
        for column in range(columns):
            picture = Image.fromarray(pixels[column].permute(1, 2, 0).cpu().numpy())
            # Nearest, so that a view's real pixels are seen.
            place = (MARGIN + column * (factor * largest + MARGIN), top + LABEL)
            sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), place)
        top += side + LABEL + MARGIN
    sheet.save(path)
    return path
