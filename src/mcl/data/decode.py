"""Read any image file as 8-bit RGB, or say why not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

# Image.open is given this list: formats that call external programs (EPS) or are not pictures stay closed.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000")
SUFFIXES = frozenset([".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pnm", ".jp2", ".mpo"])

ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)  # EXIF: width and height swapped


class UnreadableImage(Exception):
    """The file is not a picture that can be decoded; the message says why in a few words."""


def read_image(
    path: Path | str, at_least: tuple[int, int] | None = None, upright: bool = True
) -> Image.Image:
    """Decode a file to an RGB image.

    Grey, palette, CMYK and 16-bit pictures are converted, transparency is laid over white, EXIF rotation is
    applied.

    Args:
        path: image file.
        at_least: (width, height) in pixels that are enough; a JPEG may then be decoded at 1/2, 1/4 or 1/8 of
            its size (DCT scaling), never below these numbers.
        upright: apply the EXIF orientation.

    Raises:
        UnreadableImage: missing, empty, truncated, too large (Pillow's decompression-bomb limit) or no picture.
    """
    return read_reduced(path, lambda _: at_least, upright)[0]


def read_reduced(
    path: Path | str,
    at_least: Callable[[tuple[int, int]], tuple[int, int] | None],
    upright: bool = True,
) -> tuple[Image.Image, tuple[int, int]]:
    """``read_image``, where the pixels that are enough depend on the picture's size.

    Args:
        at_least: (width, height) of the picture, after rotation -> (width, height) that are enough, or none.

    Returns:
        The image, and the (width, height) it would have if decoded fully.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns above 89 million pixels (a large aerial photo) and raises above twice that (a bomb).
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                turned = upright and image.getexif().get(ORIENTATION, 1) in SIDEWAYS
                full = image.size[::-1] if turned else image.size
                enough = at_least(full)
                if enough is not None and image.format == "JPEG":
                    image.draft("RGB", enough[::-1] if turned else enough)
                image.load()
                if upright:
                    image = ImageOps.exif_transpose(image)
                return _to_rgb(image), full
    except Image.DecompressionBombError:
        raise UnreadableImage(f"larger than {2 * Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except FileNotFoundError:
        raise UnreadableImage("file is missing") from None
    except Image.UnidentifiedImageError:
        raise UnreadableImage("not an image that Pillow can read, or empty") from None
    except Exception as error:  # decoders raise anything (OSError, ValueError, SyntaxError, struct.error ...)
        raise UnreadableImage(" ".join(str(error).split()) or type(error).__name__) from None


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
    pixels = np.nan_to_num(pixels.astype(np.float64))
    if pixels.size and pixels.min() >= 0 and pixels.max() <= 255:
        return pixels.astype(np.uint8)
    if pixels.size and pixels.min() >= 0 and pixels.max() <= 65535:
        return (pixels / 257).astype(np.uint8)
    low, high = (pixels.min(), pixels.max()) if pixels.size else (0.0, 1.0)
    return ((pixels - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
