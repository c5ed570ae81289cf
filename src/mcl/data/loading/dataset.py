"""Unlabeled pictures as batches of views; items are asked for by (epoch, index)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from mcl.data.loading.decode import UnreadableImage, read_reduced
from mcl.data.loading.draws import FLIP, Box, Drawn
from mcl.data.loading.kept import KeptPictures, shrunk_size
from mcl.data.loading.parts import DECODE
from mcl.data.loading.views import Key, Pixels, ViewMaker
from mcl.data.sources.pictures import Picture
from mcl.errors import RunFailed, UserError, printable

MOST_IN_A_ROW = 10_000  # unreadable pictures: storage that went away is not asked a million times
GIGA = 1e9


class Samples(Sequence[dict[str, Any]]):
    """The samples of a batch, whose views lie together in memory already.

    Args:
        rows: the samples without their views.
        views: what the batch holds of pixels: ``{"views": key -> (N, 3, size, size)}``, or ``"cuts"`` and ``"effects"``
            of views that are still to be augmented (``UnlabeledImages.finished``).
    """

    def __init__(self, rows: list[dict[str, Any]], views: dict[str, Any]) -> None:
        self.rows, self.views = rows, views

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        views = {key: pixels[index] for key, pixels in self.views.get("views", {}).items()}
        return {"views": views, **self.rows[index]}


class UnlabeledImages(Dataset):
    """Pictures of a source as views.

    An unreadable file is replaced by the next readable one, so that batches keep their size and the order stays
    a function of the seed; which files were unreadable is told with the sample.

    If they fit into ``views.cache_gb``, pictures are decoded once, shrunk to what the views need, and kept in memory.
    Whether they are decides what pixels views have (a little), so it depends on their number and the settings alone.

    Args:
        paths: the pictures.
        maker: of their views.
        max_pixels: see ``read_image``.
        unfinished: leave augmentation to ``finished``.
    """

    def __init__(
        self, paths: Sequence[Picture], maker: ViewMaker, max_pixels: int | None = None, unfinished: bool = False
    ) -> None:
        self.paths, self.maker, self.max_pixels, self.unfinished = paths, maker, max_pixels, unfinished
        side = maker.shorter_side()
        fits = KeptPictures.bytes_needed(len(paths), side) <= maker.settings.cache_gb * GIGA
        self.kept = _room(len(paths), side) if fits else None

    def __len__(self) -> int:
        return len(self.paths)

    def notes(self) -> list[str]:
        """Lines to say at the start."""
        if self.kept is None:
            return []
        needed = self.kept.bytes_needed(len(self.paths), self.kept.side) / GIGA
        return [f"pictures stay in memory, their shorter side {self.kept.side} pixels: {needed:.2f} GB for 4:3 pictures"]

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """A sample: ``"views"``, ``"crops"`` and ``"fields"`` if they are wanted, ``"index": int`` and
        ``"unreadable": [(path, reason), ...]``."""
        return self._samples([key], unfinished=False)[0]

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> Samples:
        """Samples of a batch, made together (a DataLoader asks for them so)."""
        return self._samples(keys, self.unfinished)

    def finished(self, batches: Iterable[dict[str, Any]], device: torch.device) -> Iterator[dict[str, Any]]:
        """Batches with their views augmented, on ``device`` if that was left to do."""
        for batch in batches:
            if "cuts" in batch:
                cuts = {side: pixels.to(device, non_blocking=True) for side, pixels in batch.pop("cuts").items()}
                batch["views"] = self.maker.finish(cuts, batch.pop("effects").numpy())
            yield batch

    def _samples(self, keys: Sequence[tuple[int, int]], unfinished: bool) -> Samples:
        drawn = self.maker.draw(*zip(*keys, strict=True))
        rows, cuts = [], []
        for number, (_, index) in enumerate(keys):
            row, views = self._read(index, drawn, number)
            rows.append(row)
            cuts.append(views)
        joined = self.maker.join(cuts)
        if unfinished:
            return Samples(rows, {"cuts": joined, "effects": torch.from_numpy(drawn.effects)})
        return Samples(rows, {"views": self.maker.finish(joined, drawn.effects)})

    def _read(self, index: int, drawn: Drawn, number: int) -> tuple[dict[str, Any], list[Tensor]]:
        """A sample without its views, and the cuts that they are made of; ``number``: of the image in what is drawn."""
        unreadable: list[tuple[str, str]] = []
        attempts = min(len(self.paths), MOST_IN_A_ROW)
        for attempt in range(attempts):
            position = (index + attempt) % len(self.paths)
            try:
                pixels, places = self._decode(position, drawn, number)
            except UnreadableImage as error:
                unreadable.append((printable(str(self.paths[position])), str(error)))
                continue
            cuts, sample = self.maker.cut(pixels, places), {"index": index, "unreadable": unreadable}
            if self.maker.wanted.geometry:
                sample["crops"] = self._crops([box for _, box in cuts], pixels, drawn.effects[number, :, FLIP])
            if self.maker.wanted.fields:
                sample["fields"] = dict(self.maker.wanted.fields(self.paths[position], position))
            return sample, [view for view, _ in cuts]
        which = "none of the" if attempts == len(self.paths) else "in a row, none of"
        raise RunFailed(f"{which} {attempts} images can be read any more; the first: {unreadable[0]}")

    def _decode(self, position: int, drawn: Drawn, number: int) -> tuple[Pixels, list[Box]]:
        if self.kept is None:
            return self.maker.decode(self.paths[position], drawn, number, self.max_pixels)
        with self.maker.span(DECODE):
            if not (found := self.kept.get(position)):
                found = read_shrunk(self.paths[position], self.kept.side, self.max_pixels)
                self.kept.put(position, *found)
        pixels = Pixels(*found)
        return pixels, self.maker.places(drawn, number, pixels.full)

    def _crops(self, boxes: Sequence[Box], pixels: Pixels, flipped: np.ndarray) -> dict[Key, Tensor]:
        height, width, _ = pixels.array.shape
        fractions = torch.tensor(boxes) / torch.tensor([width, height, width, height])
        rows = torch.cat([fractions, torch.from_numpy(flipped)[:, None]], dim=1)
        return {spec.key: row for spec, row in zip(self.maker.wanted.views, rows, strict=True)}


def read_shrunk(picture: Picture, side: int, max_pixels: int | None = None) -> tuple[np.ndarray, tuple[int, int]]:
    """A picture whose shorter side is brought down to ``side`` pixels: (height, width, 3) uint8, and its full size.

    Raises:
        UnreadableImage: see ``read_image``.
    """
    decoded, full = read_reduced(picture, lambda size: shrunk_size(size, side), max_pixels=max_pixels)
    return np.array(decoded.resize(shrunk_size(full, side), reducing_gap=2.0)), full


def collate_views(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack samples: ``{"views": key -> (N, 3, size, size) uint8, "index": (N,), "unreadable": [...]}`` and what else is wanted."""
    rows = samples.rows if isinstance(samples, Samples) else samples
    batch: dict[str, Any] = dict(samples.views) if isinstance(samples, Samples) else {"views": _stacked(rows, "views")}
    if "crops" in rows[0]:
        batch["crops"] = _stacked(rows, "crops")
    if "fields" in rows[0]:
        batch["fields"] = default_collate([row["fields"] for row in rows])
    batch["index"] = torch.tensor([row["index"] for row in rows])
    batch["unreadable"] = [entry for row in rows for entry in row["unreadable"]]
    return batch


def _stacked(rows: Sequence[Mapping[str, Any]], part: str) -> dict[Key, Tensor]:
    return {key: torch.stack([row[part][key] for row in rows]) for key in rows[0][part]}


def _room(images: int, side: int) -> KeptPictures:
    try:
        return KeptPictures(images, side)
    except (OSError, ValueError) as error:
        raise UserError(
            f"no room in memory for {images:,} pictures of {side} pixels ({error}); with views.cache_gb 0 none are kept"
        ) from None
