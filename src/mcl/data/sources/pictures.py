"""What a source of images is to the rest: a sequence of pictures, each a file or a part of a larger file."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import Protocol, overload, runtime_checkable

from PIL import features

AVIF = "avif" in features.modules and features.check("avif") is True  # Pillow's wheels read it from 11.3 on
# Pictures that are listed and indexed. (decode.py reads them by content, whatever they are called.)
SUFFIXES = frozenset([".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pnm", ".jp2", ".mpo"] + [".avif"] * AVIF)  # fmt: skip
#: pictures that are not read: their number is told
UNREAD = frozenset([".avif", ".heic", ".heif", ".jxl"]) - SUFFIXES


@runtime_checkable
class Embedded(Protocol):
    """A picture that is no file of its own: a member of a tar shard, a row of a table. ``str()`` names it."""

    def read_bytes(self, most: int | None = None) -> bytes:
        """The encoded picture; raises ``OSError`` if it is gone, or longer than ``most`` bytes."""


Picture = Path | Embedded


class Pictures(Sequence[Picture]):
    """A source that is too large, or too odd, for a list of paths; items are made when they are asked for.

    Subclasses keep their tables in arrays (best: memory-mapped), which forked loader processes share and started
    ones open again; a list of a million ``Path`` would be copied into each of them bit by bit.
    """

    @abstractmethod
    def picture(self, index: int) -> Picture:
        """Picture number ``index``, 0 <= index < len."""

    @abstractmethod
    def names(self) -> Iterator[str]:
        """Names of all pictures in their order, as ``/``-separated paths."""

    @abstractmethod
    def sizes(self) -> Iterator[int]:
        """Their sizes in bytes now; -1 for one that is gone."""

    @overload
    def __getitem__(self, index: int) -> Picture: ...

    @overload
    def __getitem__(self, index: slice) -> list[Picture]: ...

    def __getitem__(self, index: int | slice) -> Picture | list[Picture]:
        if isinstance(index, slice):
            return [self.picture(i) for i in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        return self.picture(position)


def has_picture_suffix(name: str) -> bool:
    """Whether a file name ends like a picture's, in whatever case, and is not hidden."""
    return suffix_of(name) in SUFFIXES


def suffix_of(name: str) -> str:
    """The suffix of a file name in small letters; none of a hidden file."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 and not name.startswith(".") else ""


def leads_out(name: str) -> bool:
    """Whether a file name of an annotation file could leave the folder it starts from, on any system.

    Names alone are looked at: a link inside the folder is the user's own.
    """
    # Windows rules know both separators and drive letters, so a file written there is caught here too.
    pure = PureWindowsPath(name)
    return bool(pure.anchor) or ".." in pure.parts


def require_short(length: int, most: int | None) -> None:
    """Raise ``OSError`` if ``length`` bytes are more than ``most``."""
    if most is not None and length > most:
        raise OSError(f"{length:,} bytes, more than any picture of an allowed size has")


def file_size(path: str | Path) -> int:
    """Size in bytes, -1 if there is no such file."""
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return -1
