"""Pictures of a run folder, inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mcl.errors import printable

LONGEST = 2400  # pixels of a picture's side; larger ones are shrunk
QUALITY = 88
DRAWN = "evaluation.png"  # curves and tables that the page has itself
TITLES = {
    "montage.png": "What the network sees: the first batch's montages",
    "views.png": "What the network sees: the first batch's views",
    "detections.png": "Annotated and detected, side by side",
    "worst.png": "The images with most errors",
}


@dataclass(frozen=True)
class Picture:
    """``uri``: the picture itself, as the page's ``src``; sides in pixels."""

    title: str
    uri: str
    width: int
    height: int


def pictures_of(folder: Path) -> tuple[list[Picture], list[str]]:
    """Pictures that lie in a run folder, and lines on those that cannot be read."""
    read, notes = [], []
    for path in _known_first(path for path in folder.glob("*.png") if path.name != DRAWN):
        try:
            read.append(_picture(path))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            notes.append(f"{printable(path.name)} cannot be shown: {error}")
    return read, notes


def _known_first(paths: Iterable[Path]) -> list[Path]:
    order = list(TITLES)
    return sorted(paths, key=lambda path: (order.index(path.name) if path.name in order else len(order), path.name))


def _picture(path: Path) -> Picture:
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    image.save(written, "WEBP", quality=QUALITY, method=4)
    uri = f"data:image/webp;base64,{base64.b64encode(written.getvalue()).decode('ascii')}"
    return Picture(TITLES.get(path.name, printable(path.stem.replace("_", " "))), uri, *image.size)
