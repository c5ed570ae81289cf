"""Cut-outs and photos: files, or pictures in memory or in the shrunk file, at the size that composing asks for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from mcl.data.loading.decode import FORMATS, UnreadableImage, read_image
from mcl.sets.shrunk import Stored

LEAST_SIDE = 8  # pixels; smaller cut-outs show nothing
CACHED_CUTOUTS, CACHED_PHOTOS = (
    512,
    128,
)  # decoded pictures kept a process, of those the shrunk file has no room for


@dataclass(frozen=True, eq=False)
class Source:
    """A cut-out or a photo: a file that is read when needed, or a picture in memory or in the shrunk file.

    Attributes:
        name: what the JSON files call it (path relative to its folder).
        path: the file, or ``None``.
        picture: the picture in memory (RGBA for a cut-out, RGB for a photo), or ``None``.
        stored: its shrunk picture, of the size that the composer asks for, or ``None``.
    """

    name: str
    path: Path | None = None
    picture: Image.Image | None = None
    stored: Stored | None = None

    def cutout(self, side: int) -> Image.Image:
        """RGBA, cropped to what is visible, longer side at most ``side`` pixels."""
        return self._kept() or _cutout_cached(self.path, side)

    def photo(self, side: int) -> Image.Image:
        """RGB, shorter side at most ``side`` pixels."""
        return self._kept() or _photo_cached(self.path, side)

    def _kept(self) -> Image.Image | None:
        return self.stored.read() if self.stored else self.picture


@dataclass
class Sources:
    """Cut-outs by class and photos, of one split; the order of classes is the label."""

    cutouts: dict[str, list[Source]]
    photos: list[Source]


def read_cutout(path: Path) -> Image.Image:
    """An RGBA cut-out, cropped to its visible part.

    Raises:
        UnreadableImage: no picture, no transparent pixel, nothing visible, or smaller than 8 pixels.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            rgba = image.convert("RGBA")
    except Image.UnidentifiedImageError:
        raise UnreadableImage("not an image that Pillow can read, or empty") from None
    except Exception as error:  # decoders raise anything
        raise UnreadableImage(" ".join(str(error).split()) or type(error).__name__) from None
    alpha = rgba.getchannel("A")
    if alpha.getextrema()[0] == 255:
        raise UnreadableImage("no transparent pixel, so not a cut-out")
    box = visible_box(rgba)
    if box is None or min(box[2] - box[0], box[3] - box[1]) < LEAST_SIDE:
        raise UnreadableImage(f"less than {LEAST_SIDE} pixels are visible")
    return rgba.crop(box)


def visible_box(rgba: Image.Image) -> tuple[int, int, int, int] | None:
    """Box (left, top, right, bottom) of the pixels that are more than a faint haze."""
    return rgba.getchannel("A").point(lambda alpha: 255 if alpha > 16 else 0).getbbox()


def cutout_at(path: Path, side: int) -> Image.Image:
    rgba = read_cutout(path)
    rgba.thumbnail((side, side), Image.Resampling.LANCZOS)
    return rgba


def photo_at(path: Path, side: int) -> Image.Image:
    photo = read_image(path, at_least=(side, side))
    scale = side / min(photo.size)
    return (
        photo
        if scale >= 1
        else photo.resize([max(1, round(s * scale)) for s in photo.size], Image.Resampling.LANCZOS)
    )


_cutout_cached = lru_cache(maxsize=CACHED_CUTOUTS)(cutout_at)
_photo_cached = lru_cache(maxsize=CACHED_PHOTOS)(photo_at)
