"""Where indexes of large sources are kept between runs: arrays that are mapped into memory, never loaded.

    CACHE/index/KEY/GENERATION/meta.json *.npy

A generation is written beside, then renamed, and never changed again: readers see a whole one or none. One process
writes at a time (a lock); the one before stays, for loader processes that are just opening it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mcl.files import user_cache

FORMAT = 1
KEPT = 2  # generations


@dataclass(frozen=True)
class Stored:
    """A generation: its folder and what was written with its arrays."""

    folder: Path
    meta: dict[str, Any]

    def array(self, name: str) -> np.ndarray:
        """One of its arrays, mapped."""
        return np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)


def cache_folder(setting: Path | None) -> Path:
    """The folder for what is computed once about data: as set, or the user's cache.

    What cannot be written there is done without, or told with the setting ``data_cache``.
    """
    return user_cache() if setting is None else setting


class IndexStore:
    """The indexes of one source.

    Args:
        cache: see ``cache_folder``.
        source: what is indexed, e.g. a folder's absolute path; its hash names the folder in the cache.
    """

    def __init__(self, cache: Path, source: str) -> None:
        self.source = source
        self.folder = cache / "index" / hashlib.blake2b(os.fsencode(source), digest_size=12).hexdigest()

    def find(self, is_current: Callable[[Stored], bool]) -> Stored | None:
        """The newest generation, if it is whole, of this version of the format, and ``is_current``."""
        for folder in self._generations()[::-1]:
            try:
                stored = Stored(folder, json.loads((folder / "meta.json").read_text("utf-8")))
                if stored.meta["format"] == FORMAT and stored.meta["source"] == self._named():
                    return stored if is_current(stored) else None
            except (OSError, ValueError, KeyError, TypeError):  # damaged: as if it were not there
                continue
        return None

    def write(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> Stored:
        """Write a new generation and drop the oldest; raises ``OSError`` where that cannot be done."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f".partial-{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)  # of a process of this number that was killed
        partial.mkdir()
        try:
            for name, array in arrays.items():
                np.save(partial / f"{name}.npy", array, allow_pickle=False)
            whole = {"format": FORMAT, "source": self._named(), **meta}
            (partial / "meta.json").write_text(json.dumps(whole, indent=1), "utf-8")
            final = self.folder / f"{time.time_ns():020d}"
            partial.rename(final)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        for old in self._generations()[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        return Stored(final, whole)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of this source (waits for it); raises ``OSError`` where no lock file can be made."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # the system lets go of it, however the process ends
            yield

    def _generations(self) -> list[Path]:
        try:
            return sorted(entry for entry in self.folder.iterdir() if entry.name.isdigit())
        except OSError:
            return []

    def _named(self) -> str:
        return self.source.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
