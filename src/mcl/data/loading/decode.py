"""Read any image file as 8-bit RGB, or say why not. Files are taken to be hostile: size, memory and time are bounded."""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from mcl.data.sources.pictures import AVIF, Embedded, Picture, require_short
from mcl.data.sources.pictures import SUFFIXES as SUFFIXES  # where it was first
from mcl.errors import printable

# Image.open is given this list: formats that call external programs (EPS) or are not pictures stay closed.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000", *["AVIF"] * AVIF)

ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)  # EXIF: width and height swapped
MAX_PIXELS = 178_956_970  # Pillow's own limit: it raises above twice its MAX_IMAGE_PIXELS
BYTES_A_PIXEL = 8  # 16 bits in four channels; no encoded picture needs more, but for a header
HEADER = 2**24  # bytes: EXIF with a thumbnail, colour profile, XMP
SCAN = b"\xff\xda"  # JPEG marker
MAX_SCANS = 200  # passes over a progressive JPEG: encoders make about ten, and each costs as long as a whole decode
LONGEST_REASON = 200


class UnreadableImage(Exception):
    """The file is not a picture that can be decoded; the message says why in a few words."""


class TooManyPixels(UnreadableImage):
    """The picture is larger than ``max_pixels``: sound, for all that is known, but not decoded."""


def read_image(
    picture: Picture | str | BinaryIO,
    at_least: tuple[int, int] | None = None,
    upright: bool = True,
    max_pixels: int | None = None,
) -> Image.Image:
    """Decode a picture to an RGB image.

    Grey, palette, CMYK and 16-bit pictures are converted, transparency is laid over white, EXIF rotation is
    applied.

    Args:
        picture: image file, open file, or picture inside a larger file.
        at_least: (width, height) in pixels that are enough; a JPEG may then be decoded at 1/2, 1/4 or 1/8 of
            its size (DCT scaling), never below these numbers.
        upright: apply the EXIF orientation.
        max_pixels: width x height above which nothing is decoded; none: Pillow's limit as it is set.

    Raises:
        UnreadableImage: missing, empty, truncated, too large, no regular file or no picture.
    """
    return read_reduced(picture, lambda _: at_least, upright, max_pixels)[0]


def read_reduced(
    picture: Picture | str | BinaryIO,
    at_least: Callable[[tuple[int, int]], tuple[int, int] | None],
    upright: bool = True,
    max_pixels: int | None = None,
) -> tuple[Image.Image, tuple[int, int]]:
    """``read_image``, where the pixels that are enough depend on the picture's size.

    Args:
        at_least: (width, height) of the picture, after rotation -> (width, height) that are enough, or none.

    Returns:
        The image, and the (width, height) it would have if decoded fully.
    """
    try:
        with warnings.catch_warnings(), _pixel_limit(max_pixels) as most:
            # Pillow warns above 89 million pixels (a large aerial photo) and raises above twice that (a bomb).
            warnings.simplefilter("ignore")
            with _opened(picture, most) as file, Image.open(file, formats=FORMATS) as image:
                turned = upright and image.getexif().get(ORIENTATION, 1) in SIDEWAYS
                full = image.size[::-1] if turned else image.size
                enough = at_least(full)
                if image.format in ("JPEG", "MPO") and image.info.get("progressive"):
                    _require_few_scans(file)
                if enough is not None and image.format == "JPEG":
                    image.draft("RGB", enough[::-1] if turned else enough)
                image.load()
                if upright:
                    image = ImageOps.exif_transpose(image)
                return _to_rgb(image), full
    except Image.DecompressionBombError:
        limit = max_pixels or 2 * Image.MAX_IMAGE_PIXELS
        raise TooManyPixels(f"larger than {limit:,} pixels") from None
    except FileNotFoundError:
        raise UnreadableImage("file is missing") from None
    except Image.UnidentifiedImageError:
        raise UnreadableImage("not an image that Pillow can read, or empty") from None
    except MemoryError:
        raise UnreadableImage("not enough memory to decode it") from None
    except Exception as error:  # decoders raise anything (OSError, ValueError, SyntaxError, struct.error ...)
        reason = printable(" ".join(str(error).split()))[:LONGEST_REASON]
        raise UnreadableImage(reason or type(error).__name__) from None


def picture_size(picture: Picture | str, upright: bool = True) -> tuple[int, int]:
    """(width, height) of a picture as its header tells them; nothing is decoded.

    Args:
        upright: after the EXIF rotation.

    Raises:
        UnreadableImage: missing, empty, or no picture that can be read.
    """
    try:
        with warnings.catch_warnings(), _opened(picture, MAX_PIXELS) as file:
            warnings.simplefilter("ignore")
            with Image.open(file, formats=FORMATS) as image:
                turned = upright and image.getexif().get(ORIENTATION, 1) in SIDEWAYS
                return image.size[::-1] if turned else image.size
    except FileNotFoundError:
        raise UnreadableImage("file is missing") from None
    except Exception as error:  # as read_reduced: readers of headers raise anything
        reason = printable(" ".join(str(error).split()))[:LONGEST_REASON]
        raise UnreadableImage(reason or type(error).__name__) from None


@contextmanager
def _pixel_limit(max_pixels: int | None) -> Iterator[int]:
    """Set Pillow's limit for a while, in this process (a loader's worker, say); gives the pixels allowed."""
    before = Image.MAX_IMAGE_PIXELS
    if max_pixels is None:
        yield MAX_PIXELS if before is None else 2 * before
        return
    Image.MAX_IMAGE_PIXELS = max_pixels / 2  # it raises above twice this
    try:
        yield max_pixels
    finally:
        Image.MAX_IMAGE_PIXELS = before


@contextmanager
def _opened(picture: Picture | str | BinaryIO, max_pixels: int) -> Iterator[BinaryIO]:
    """An open file. Pillow is not given the path: it would map raw pictures, and one cut short then kills the process."""
    most = BYTES_A_PIXEL * max_pixels + HEADER
    if isinstance(picture, str | Path):
        # A pipe under a picture's name would block for ever, a device never end.
        with open(picture, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise OSError("not a regular file")
            require_short(status.st_size, most)
            yield file
    elif isinstance(picture, Embedded):
        yield io.BytesIO(picture.read_bytes(most))
    else:
        yield picture


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _require_few_scans(file: BinaryIO) -> None:
    """A progressive JPEG can ask for thousands of passes over a picture, each as long as a whole decode."""
    place = file.tell()
    file.seek(0)
    scans = sum(part.count(SCAN) for part in iter(lambda: file.read(2**24), b""))
    file.seek(place)
    if scans > MAX_SCANS:
        raise OSError(f"a progressive JPEG of {scans} scans")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image.copy() if image.readonly else image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if "A" in image.mode or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    """16-bit counts (0..65535) or other number ranges to 0..255; values that already fit are kept."""
    if pixels.dtype.kind in "ui" and pixels.size and pixels.min() >= 0 and pixels.max() <= 65535:
        # The same numbers as below, without copies in float64.
        return (pixels if pixels.max() <= 255 else pixels // 257).astype(np.uint8)
    pixels = np.nan_to_num(pixels.astype(np.float64))
    if pixels.size and pixels.min() >= 0 and pixels.max() <= 255:
        return pixels.astype(np.uint8)
    if pixels.size and pixels.min() >= 0 and pixels.max() <= 65535:
        return (pixels / 257).astype(np.uint8)
    low, high = (pixels.min(), pixels.max()) if pixels.size else (0.0, 1.0)
    return ((pixels - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
