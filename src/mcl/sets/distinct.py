"""Pictures that can be used, each once: unreadable ones and copies are left out and told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mcl.data.loading.decode import UnreadableImage
from mcl.sets.cutouts import Source
from mcl.sets.shrunk import Shrunk, Stored

THUMBNAIL = 12  # pixels; pictures are compared at this size
SAME_PICTURE = 3.0  # mean difference of thumbnails in grey levels; re-saved and rescaled copies stay below 2


@dataclass
class Findings:
    """What was left out on the way and why: ``skipped`` are files, ``notes`` are lines for the user."""

    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def without_mirrors(paths: list[Path], findings: Findings) -> list[Path]:
    """Without ``x_mirror*.png`` where ``x.png`` is there too."""
    stems = {path.with_suffix("") for path in paths}
    kept = []
    for path in paths:
        original, mirror, _ = path.stem.partition("_mirror")
        if mirror and path.with_name(original) in stems:
            findings.skipped[str(path)] = f"mirror image of {original}"
        else:
            kept.append(path)
    return kept


class Thumbnails:
    """Thumbnails of the pictures kept so far, to find copies (also mirrored, rescaled, saved anew).

    Attributes:
        names: of the pictures kept.
        files: name by identity (device, inode) of the files looked at: a link to one need not be opened.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.files: dict[tuple[int, int], str] = {}
        self._values = np.zeros((64, THUMBNAIL * THUMBNAIL * 4), np.float32)
        self._quarters = np.zeros((64, 16), np.float32)

    def copy_of(self, name: str, thumbnail: bytes) -> str | None:
        """Name of the kept picture that this one copies; otherwise keeps it and returns ``None``."""
        values = np.frombuffer(thumbnail, np.uint8).reshape(THUMBNAIL, THUMBNAIL, 4).astype(np.float32)
        for side in (values, values[:, ::-1]):
            known = self._near(side)
            distances = np.abs(self._values[known] - side.ravel()).mean(axis=1)
            if len(known) and distances.min() < SAME_PICTURE:
                return self.names[known[distances.argmin()]]
        if len(self.names) == len(self._values):
            self._values, self._quarters = (
                np.concatenate([array, np.zeros_like(array)]) for array in (self._values, self._quarters)
            )
        self._values[len(self.names)], self._quarters[len(self.names)] = values.ravel(), _quarters(values)
        self.names.append(name)
        return None

    def _near(self, values: np.ndarray) -> np.ndarray:
        """Indices of the pictures that may be near: means of quarters differ by no more than their pixels do."""
        lower_bounds = np.abs(self._quarters[: len(self.names)] - _quarters(values)).mean(axis=1)
        return np.flatnonzero(lower_bounds < SAME_PICTURE + 0.01)  # rounding


def _quarters(values: np.ndarray) -> np.ndarray:
    """(16,) mean colours of the quarters of a thumbnail."""
    return values.reshape(2, THUMBNAIL // 2, 2, THUMBNAIL // 2, 4).mean(axis=(1, 3)).ravel()


@dataclass(frozen=True)
class _Prepared:
    """What a worker sends of a picture: a thumbnail, and where it has put the pixels."""

    thumbnail: bytes
    stored: Stored | None


def _prepare(read: Callable[[Path], Image.Image], shrunk: Shrunk, path: Path) -> _Prepared | str:
    """The picture, or why it cannot be used."""
    try:
        picture = read(path)
    except UnreadableImage as error:
        return str(error)
    # Premultiplied: colours that cannot be seen do not count.
    small = picture.convert("RGBA").convert("RGBa").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return _Prepared(small.tobytes(), shrunk.add(picture))


def distinct(
    paths: list[Path],
    root: Path,
    read: Callable[[Path], Image.Image],
    seen: Thumbnails,
    shrunk: Shrunk,
    run: Callable[..., Iterator[Any]],
    findings: Findings,
) -> list[Source]:
    """The pictures that can be read and copy none that ``seen`` knows, with their pixels in ``shrunk``.

    Args:
        paths: files to look at.
        root: what their names are relative to.
        read: gives the picture at the size that composing needs, or raises ``UnreadableImage``.
        seen: gets those kept.
        shrunk: gets the pixels.
        run: a ``map``, maybe over worker processes.
        findings: gets those left out.
    """
    kept, paths = [], _files(paths, root, seen, findings)
    for path, prepared in zip(paths, run(partial(_prepare, read, shrunk), paths), strict=True):
        name = path.relative_to(root).as_posix()
        if isinstance(prepared, str):
            findings.skipped[str(path)] = prepared
            continue
        original = seen.copy_of(name, prepared.thumbnail)
        if original is None:
            kept.append(Source(name, path, stored=prepared.stored))
        else:
            findings.skipped[str(path)] = f"copy of {original}"
    return kept


def _files(paths: list[Path], root: Path, seen: Thumbnails, findings: Findings) -> list[Path]:
    """Each file once, under the first of its names."""
    files = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:  # reading it says why
            files.append(path)
            continue
        name = path.relative_to(root).as_posix()
        original = seen.files.setdefault((status.st_dev, status.st_ino), name)
        if original == name:
            files.append(path)
        else:
            findings.skipped[str(path)] = f"link to {original}"
    return files
