"""JPEGs to load: pictures whose detail falls with frequency as in photographs, in photographs' file sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

QUALITY = 90
GRAIN = 5.0  # standard deviation of a sensor's noise, which sets how many bits a pixel takes


def picture(seed: int, width: int, height: int) -> Image.Image:
    """Octaves of coloured noise, amplitude in proportion to wavelength (a 1/f spectrum), and grain."""
    rng = np.random.default_rng([seed, width, height])
    pixels = np.full((height, width, 3), 127.0, dtype=np.float32)
    wavelength, longest = 2.0, float(max(width, height))
    while wavelength < longest:
        cells = (max(2, round(width / wavelength)), max(2, round(height / wavelength)))
        amplitude = 60.0 * np.sqrt(wavelength / longest)
        noise = rng.normal(0, amplitude, (cells[1], cells[0])).astype(np.float32)
        tint = rng.uniform(0.6, 1.4, 3).astype(np.float32)
        smooth = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        pixels += np.asarray(smooth)[..., None] * tint
        wavelength *= 2
    pixels += rng.normal(0, GRAIN, (height, width, 1)).astype(np.float32)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_pictures(folder: Path, count: int, width: int, height: int) -> list[Path]:
    """``count`` JPEGs of few different pictures (a large one takes seconds to make): to a decoder it is the same."""
    folder.mkdir(parents=True, exist_ok=True)
    different = 8 if width * height <= 2**20 else 2
    paths = [folder / f"{i:04d}.jpg" for i in range(count)]
    for i, path in enumerate(paths):
        if i < different:
            picture(i, width, height).save(path, quality=QUALITY)
        else:
            path.write_bytes(paths[i % different].read_bytes())
    return paths
