"""Pictures at the size that composing needs, one after another in a temporary file that all workers map.

Each cut-out and photo is decoded once, not once a worker and again whenever a worker's memory of it has run out.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

MOST_BYTES = 4 * 2**30  # of the file; pictures beyond it are decoded whenever they are drawn


@dataclass(frozen=True)
class Stored:
    """Where a picture's pixels lie.

    Attributes:
        path: the file.
        offset: of its first byte.
        mode: Pillow's mode, "RGB" or "RGBA".
        size: (width, height).
    """

    path: Path
    offset: int
    mode: str
    size: tuple[int, int]

    def read(self) -> Image.Image:
        """The picture; its pixels are the file's, not to be changed in place."""
        length = self.size[0] * self.size[1] * len(self.mode)
        pixels = memoryview(_mapped(self.path))[self.offset : self.offset + length]
        return Image.frombuffer(self.mode, self.size, pixels, "raw", self.mode, 0, 1)


class ShrunkFile:
    """Writes the file; one process does, and pictures are read when all have been added.

    Args:
        path: file to make.
        most_bytes: the file does not grow beyond this.
    """

    def __init__(self, path: Path, most_bytes: int = MOST_BYTES) -> None:
        self.path, self.most_bytes, self.written = path, most_bytes, 0
        self._file = path.open("xb", buffering=0)

    def add(self, mode: str, size: tuple[int, int], pixels: bytes) -> Stored | None:
        """Append a picture's pixels; ``None`` if there is no room."""
        if self.written + len(pixels) > self.most_bytes:
            return None
        stored = Stored(self.path, self.written, mode, size)
        self._file.write(pixels)
        self.written += len(pixels)
        return stored

    def close(self) -> None:
        """Delete the file. Nothing may be read from it any more."""
        self._file.close()
        _mapped.cache_clear()
        self.path.unlink(missing_ok=True)


@lru_cache(maxsize=4)
def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
