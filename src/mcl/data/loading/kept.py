"""Pictures decoded once and kept in memory, shrunk to what the views need."""

from __future__ import annotations

import math
import mmap
import multiprocessing
from typing import Any

import numpy as np

LONGEST_SIDE = 2  # times the shorter one: what is reserved for a picture; memory that is not used is not taken
CHANNELS = 3
NEXT, OFFSET, WIDTH, HEIGHT, FULL_WIDTH, FULL_HEIGHT = 0, 0, 1, 2, 3, 4  # NEXT: of row 0, the rest of a picture's row


def shrunk_size(full: tuple[int, int], side: int) -> tuple[int, int]:
    """(width, height) of a picture whose shorter side is brought down to ``side`` pixels."""
    factor = min(1.0, side / min(full))
    return max(1, round(full[0] * factor)), max(1, round(full[1] * factor))


class KeptPictures:
    """Room for the pictures of a data set; each is put there when it is first read.

    Loader processes that are forked share it. Processes that start afresh (macOS, Windows) get rooms of their own.

    Args:
        images: of the data set.
        side: to which the shorter side of each is shrunk.
    """

    def __init__(self, images: int, side: int) -> None:
        self.images, self.side = images, side
        self.size = images * CHANNELS * side * side * LONGEST_SIDE
        self._reserve()

    @staticmethod
    def bytes_needed(images: int, side: int) -> int:
        """For pictures of 4:3, about."""
        return math.ceil(images * CHANNELS * side * side * 4 / 3)

    def get(self, index: int) -> tuple[np.ndarray, tuple[int, int]] | None:
        """((height, width, 3) uint8, (width, height) before it was shrunk), or None if it is not there."""
        with self._lock:
            offset, width, height, *full = self._rows[index + 1].tolist()
        if not width:
            return None
        pixels = self._pixels[offset : offset + CHANNELS * width * height].reshape(height, width, CHANNELS)
        return pixels, tuple(full)

    def put(self, index: int, pixels: np.ndarray, full: tuple[int, int]) -> None:
        """Keep a picture, unless it is there or there is no room left (many very long ones)."""
        height, width, _ = pixels.shape
        with self._lock:
            offset = int(self._rows[0, NEXT])
            if self._rows[index + 1, WIDTH] or offset + pixels.size > self.size:
                return
            self._pixels[offset : offset + pixels.size] = pixels.reshape(-1)
            self._rows[0, NEXT] = offset + pixels.size
            self._rows[index + 1] = (offset, width, height, *full)

    def _reserve(self) -> None:
        self._lock = multiprocessing.Lock()
        rows = (self.images + 1) * 5 * 8
        # Anonymous and shared: forked processes see the same pages, and a small /dev/shm does not matter.
        memory = mmap.mmap(-1, rows + self.size)
        self._rows = np.frombuffer(memory, np.int64, (self.images + 1) * 5).reshape(-1, 5)
        self._pixels = np.frombuffer(memory, np.uint8, self.size, offset=rows)

    def __getstate__(self) -> dict[str, Any]:
        return {"images": self.images, "side": self.side}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)
