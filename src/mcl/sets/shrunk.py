"""Pictures at the size that composing needs, one after another in temporary files that all workers map.

Each cut-out and photo is decoded once, not once a worker and again whenever a worker's memory of it has run out.
"""

from __future__ import annotations

import mmap
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from io import FileIO
from pathlib import Path

from PIL import Image

MOST_BYTES = 4 * 2**30  # of all files; pictures beyond it are decoded whenever they are drawn


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


@dataclass(frozen=True)
class Shrunk:
    """Temporary files of pictures: each process appends to its own, and all read from all.

    Pictures are read when all have been added.

    Attributes:
        folder: gets the files.
        most_bytes: a process's file does not grow beyond this.
    """

    folder: Path
    most_bytes: int

    def add(self, picture: Image.Image) -> Stored | None:
        """Append a picture's pixels; ``None`` if there is no room."""
        path = self.folder / f"{os.getpid()}.raw"
        file = _opened(path)
        offset, pixels = file.tell(), picture.tobytes()
        if offset + len(pixels) > self.most_bytes:
            return None
        file.write(pixels)
        return Stored(path, offset, picture.mode, picture.size)


@contextmanager
def shrunk_pictures(folder: Path, workers: int) -> Iterator[Shrunk]:
    """Temporary files below ``folder`` for ``workers`` processes; removed at the end."""
    folder.mkdir()
    try:
        yield Shrunk(folder, MOST_BYTES // workers)
    finally:
        _opened.cache_clear()
        _mapped.cache_clear()
        shutil.rmtree(folder, ignore_errors=True)


@lru_cache(maxsize=1)
def _opened(path: Path) -> FileIO:
    return path.open("xb", buffering=0)


@cache
def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
