"""Rows of numbers, one for every image, that the processes of a run compute together and all read."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mcl.engine.processes.distributed import broadcast_object
from mcl.errors import UserError

PATTERN = "features*.bin"


@dataclass(frozen=True)
class Deal:
    """Which process has which images: whole batches, dealt out in turn.

    (The order of sums may depend on a batch's size; with the same batches rows are those of a single process, bit for bit.)
    """

    images: int
    batch: int
    processes: int

    def batches(self, process: int) -> list[range]:
        """Image indices of a process, batch by batch."""
        every = [range(first, min(first + self.batch, self.images)) for first in range(0, self.images, self.batch)]
        return every[process :: self.processes]

    def shares(self) -> list[int]:
        """Number of images of every process."""
        return [sum(map(len, self.batches(process))) for process in range(self.processes)]

    def place(self, image: int) -> tuple[int, int]:
        """(process, position among its images)."""
        number, offset = divmod(image, self.batch)
        turn, process = divmod(number, self.processes)
        return process, turn * self.batch + offset


def fresh_names(folder: Path, processes: int) -> list[Path]:
    """The file of each process, under names that no file has had before; the same on all processes.

    Files that a run left behind when it was killed are removed.
    """

    def begin() -> str:
        for old in folder.glob(PATTERN):
            old.unlink(missing_ok=True)
        return secrets.token_hex(4)

    token = broadcast_object(begin)
    return [folder / f"features.{token}.{process}.bin" for process in range(processes)]


class RowsInMemory:
    """An array to be filled."""

    def __init__(self, shape: tuple[int, int], dtype: str) -> None:
        self.array = np.empty(shape, dtype)

    def put(self, first: int, rows: np.ndarray) -> None:
        """Set rows ``first ...``."""
        self.array[first : first + len(rows)] = rows

    def close(self) -> None:
        """Nothing is held."""


class RowsInFile:
    """The same in a new file, which is complete on disk after ``close``.

    It is written, not mapped: on a full disk a write fails with an error, where a mapped page ends the process.
    """

    def __init__(self, path: Path, dtype: str) -> None:
        self.path, self.dtype = path, np.dtype(dtype)
        self._file = open(path, "xb")  # noqa: SIM115 - closed by ``close``

    def put(self, first: int, rows: np.ndarray) -> None:
        """Set rows ``first ...``."""
        data = rows.astype(self.dtype)
        try:
            self._file.seek(first * data.shape[1] * self.dtype.itemsize)
            self._file.write(data.tobytes())
        except OSError as error:
            error.filename = str(self.path)
            raise

    def close(self) -> None:
        """Bring everything to disk, where the other processes find it."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            error.filename = str(self.path)
            raise


def map_rows(path: Path, shape: tuple[int, int], dtype: str) -> np.ndarray:
    """The rows of a finished file, mapped for reading.

    Raises:
        UserError: not there, or of another size.
    """
    try:
        if path.stat().st_size == shape[0] * shape[1] * np.dtype(dtype).itemsize:
            return np.memmap(path, dtype, "r", shape=shape)
        reason = "has another size than the process that wrote it said"
    except FileNotFoundError:
        reason = "is not there"
    raise UserError(f"{path}: {reason}; all machines must see the same run folder (--out)")
