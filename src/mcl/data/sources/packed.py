"""Millions of strings as two arrays, and a sequence of paths made of them."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mcl.data.sources.pictures import Pictures, file_size


class Packer:
    """Collects strings for ``PackedStrings``; about as many bytes as the strings have, plus 8 each."""

    def __init__(self) -> None:
        self._blob, self._ends = bytearray(), array("q")

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, text: str) -> None:
        """Add one; bytes of a file name that are not UTF-8 are kept as they are."""
        self._blob += os.fsencode(text)
        self._ends.append(len(self._blob))

    def packed(self) -> PackedStrings:
        """All strings added so far; shares their memory, so nothing may be added afterwards."""
        return PackedStrings(np.frombuffer(self._blob, np.uint8), np.frombuffer(self._ends, np.int64))


class PackedStrings(Sequence[str]):
    """Strings as one array of bytes and one of end positions.

    Args:
        blob: (bytes,) uint8, all strings one after the other.
        ends: (n,) int64, where each one ends in ``blob``.
    """

    def __init__(self, blob: np.ndarray, ends: np.ndarray) -> None:
        self.blob, self.ends = blob, ends

    @classmethod
    def of(cls, strings: Iterable[str]) -> PackedStrings:
        """Pack strings."""
        packer = Packer()
        for text in strings:
            packer.add(text)
        return packer.packed()

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(self.blob[start : int(self.ends[index])].tobytes())

    def __iter__(self) -> Iterator[str]:
        start, chunk = 0, 65536  # a chunk of end positions at once: numpy's single numbers are slow
        for first in range(0, len(self), chunk):
            ends = self.ends[first : first + chunk].tolist()
            part = self.blob[start : ends[-1]].tobytes()
            begin = 0
            for end in ends:
                yield os.fsdecode(part[begin : end - start])
                begin = end - start
            start = ends[-1]


class ImagePaths(Pictures):
    """Paths that start from a folder, packed; items are ``Path``."""

    def __init__(self, root: Path, relative: PackedStrings) -> None:
        self.root, self.relative = root, relative

    def __len__(self) -> int:
        return len(self.relative)

    def picture(self, index: int) -> Path:
        return self.root / self.relative[index]

    def names(self) -> Iterator[str]:
        root = "" if str(self.root) == "." else os.path.join(self.root, "")
        # A list may hold absolute paths too.
        return (name if name.startswith(os.sep) else root + name for name in self.relative)

    def sizes(self) -> Iterator[int]:
        return map(file_size, self.names())
