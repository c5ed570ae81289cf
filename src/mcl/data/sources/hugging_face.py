"""Images in parquet files or in a folder saved by Hugging Face ``datasets``; nothing is fetched, no code of a set runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcl.data.sources.pictures import Pictures, require_short
from mcl.errors import UserError, did_you_mean, printable


@dataclass(frozen=True, eq=False)
class RowPicture:
    """The picture in one row of a table."""

    table: RowPictures
    row: int

    def __str__(self) -> str:
        return f"{self.table.name}/row-{self.row}"

    def read_bytes(self, most: int | None = None) -> bytes:
        """The encoded picture; raises ``OSError`` if the row has none, or above ``most``."""
        value = self.table.dataset[self.row][self.table.column]
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            # A path in a row could name any file of this machine; only what the table holds itself is read.
            raise OSError("the row holds no encoded picture (a path alone is not followed)")
        require_short(len(data), most)
        return data


class RowPictures(Pictures):
    """Rows of a ``datasets.Dataset``, whose tables are mapped into memory.

    Args:
        name: of the source, for messages.
        dataset: with one column, whose images stay encoded.
        column: its name.
    """

    def __init__(self, name: str, dataset: Any, column: str) -> None:
        self.name, self.dataset, self.column = name, dataset, column

    def __len__(self) -> int:
        return len(self.dataset)

    def picture(self, index: int) -> RowPicture:
        return RowPicture(self, index)

    def names(self) -> Iterator[str]:
        return (f"row-{row}" for row in range(len(self)))

    def sizes(self) -> Iterator[int]:
        import pyarrow as pa
        import pyarrow.compute as pc

        flat = self.dataset.flatten_indices() if self.dataset._indices is not None else self.dataset
        for chunk in flat.data.column(self.column).chunks:
            data = pc.struct_field(chunk, "bytes") if pa.types.is_struct(chunk.type) else chunk
            for size in pc.binary_length(data).to_pylist():
                yield -1 if size is None else size


def is_saved_dataset(folder: Path) -> bool:
    """Whether a folder was written by ``save_to_disk``."""
    one = all(os.path.isfile(folder / name) for name in ("dataset_info.json", "state.json"))
    return one or os.path.isfile(folder / "dataset_dict.json")


def open_saved(folder: Path, column: str | None) -> RowPictures:
    """A folder written by ``Dataset.save_to_disk``.

    Raises:
        UserError: ``datasets`` is not installed, several splits, no column of images, or a damaged set.
    """
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(entry.name for entry in folder.iterdir() if (entry / "state.json").is_file())
        if len(splits) != 1:
            raise UserError(f"{folder}: has the splits {', '.join(splits) or '(none)'}; give one: {folder / (splits or ['train'])[0]}")
        folder = folder / splits[0]
    datasets = _library(folder)
    with _one_line(folder):
        dataset = datasets.load_from_disk(str(folder.resolve()))
    return _rows(str(folder), dataset, column, datasets)


def open_parquet(files: Sequence[str], column: str | None, cache: Path) -> RowPictures:
    """Parquet files; copied once into ``cache`` as Arrow files, of which rows can be read in any order.

    Raises:
        UserError: as ``open_saved``.
    """
    datasets = _library(files[0])
    name = files[0] if len(files) == 1 else os.path.commonpath(files)
    with _one_line(name):
        whole = [os.path.realpath(file) for file in files]
        dataset = datasets.Dataset.from_parquet(whole, cache_dir=str(cache / "parquet"))
    return _rows(name, dataset, column, datasets)


def _rows(name: str, dataset: Any, column: str | None, datasets: Any) -> RowPictures:
    with _one_line(name):
        column = _choose(name, dataset.features, column, datasets)
        dataset = dataset.select_columns([column]).with_format(None)
        if isinstance(dataset.features[column], datasets.Image):
            dataset = dataset.cast_column(column, datasets.Image(decode=False))
    if not len(dataset):
        raise UserError(f"{name}: has no row")
    return RowPictures(name, dataset, column)


def _choose(name: str, features: Any, column: str | None, datasets: Any) -> str:
    images = [key for key, kind in features.items() if isinstance(kind, datasets.Image)]
    encoded = images or [key for key, kind in features.items() if _holds_bytes(kind, datasets)]
    if column is not None:
        if column not in features:
            raise UserError(f"{name}: no column {column!r} (--data_column){did_you_mean(column, features)}; it has: {', '.join(features)}")
        if not isinstance(features[column], datasets.Image) and not _holds_bytes(features[column], datasets):
            raise UserError(f"{name}: column {column!r} (--data_column) holds no encoded pictures (but {features[column]})")
        return column
    if len(encoded) != 1:
        found = f"columns {', '.join(encoded)}: choose one" if encoded else f"no column of encoded pictures (columns: {', '.join(features)})"
        raise UserError(f"{name}: {found}{' as --data_column' if encoded else ''}")
    return encoded[0]


def _holds_bytes(kind: Any, datasets: Any) -> bool:
    if isinstance(kind, dict):
        return isinstance(kind.get("bytes"), datasets.Value) and kind["bytes"].dtype in ("binary", "large_binary")
    return isinstance(kind, datasets.Value) and kind.dtype in ("binary", "large_binary")


def _library(name: str | Path) -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError(f"{name}: parquet files and saved datasets need datasets: pip install 'mcl[hf]'") from None
    datasets.disable_progress_bars()
    return datasets


@contextlib.contextmanager
def _one_line(name: str | Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # pyarrow and datasets raise anything about a damaged file
        cause = error.__cause__ or error
        raise UserError(f"{name}: cannot be read: {printable(' '.join(str(cause).split()))[:200] or type(cause).__name__}") from None
