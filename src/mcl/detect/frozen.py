"""Frozen parts of a detector, and the features of a frozen trunk computed once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection.image_list import ImageList

from mcl.data.labels.scenes import CocoDetection
from mcl.data.loading.loader import plain_errors
from mcl.data.loading.order import Key
from mcl.data.loading.workers import prepare_worker
from mcl.detect.base import Detector
from mcl.detect.feature_rows import Deal, RowsInFile, RowsInMemory, fresh_names, map_rows
from mcl.detect.forward import canvas_of, to_canvas
from mcl.engine.processes.distributed import all_gather_objects, barrier, process_count, rank


def freeze(detector: Detector, what: str) -> list[nn.Module]:
    """Stop training ``what`` and return its modules, which must be kept in eval mode.

    Args:
        what: ``none``, ``backbone``, or ``trunk`` (what the detector has of one).
    """
    modules: list[nn.Module] = []
    if what == "backbone":
        modules = [detector.backbone.body]
    elif what == "trunk":
        modules = detector.trunk_modules()
    for module in modules:
        module.requires_grad_(False)
    return modules


class FeatureStore:
    """Features of every still training image (and its mirror image), one row each.

    Several processes compute a share each, into a file each, and read all of them.

    Args:
        detector: with a frozen trunk in eval mode, the same on all processes.
        dataset: its still images are encoded.
        mirrored: also encode mirror images.
        dtype: ``float16`` or ``float32``.
        folder: where rows go if they take more than ``limit_gb`` (those of several processes always do); they stay in
            memory otherwise. All processes see it. What is left there of an earlier store is removed.
        tick: called with the number of images done after every batch.

    Raises:
        UserError: an image cannot be read, or a process does not see the folder of the others.
    """

    def __init__(
        self,
        detector: Detector,
        dataset: CocoDetection,
        mirrored: bool,
        dtype: str,
        folder: Path,
        limit_gb: float,
        device: torch.device,
        batch: int = 16,
        workers: int = 0,
        tick: Callable[[int], None] = lambda done: None,
    ) -> None:
        self.mirrored, self.device, self.dtype = mirrored, device, dtype
        self.deal = Deal(len(dataset), batch, process_count())
        self.shares = self.deal.shares()
        self.names = fresh_names(folder, process_count())
        self.shapes, self.canvas_size = {}, (0, 0)
        written = self._compute(detector, dataset, limit_gb, workers, tick)
        # A process without images of its own learns the shapes here; and all files are complete.
        shared = all_gather_objects((self.shapes, self.canvas_size))
        self.shapes, self.canvas_size = next(shapes for shapes in shared if shapes[0])
        self.parts = [written.array] if isinstance(written, RowsInMemory) else self._map()

    def features(self, rows: Sequence[int]) -> OrderedDict[str, Tensor]:
        """Pyramid levels of these rows (index, or index + number of images for the mirror image) as float32."""
        flat = torch.from_numpy(np.stack([self._row(row) for row in rows])).to(self.device).float()
        pieces = flat.split([int(np.prod(shape)) for shape in self.shapes.values()], 1)
        return OrderedDict(
            (k, piece.view(len(rows), *s)) for (k, s), piece in zip(self.shapes.items(), pieces, strict=True)
        )

    def canvas(self, sizes: Sequence[tuple[int, int]]) -> ImageList:
        """The canvas that features belong to, with the sizes of the images on it."""
        return canvas_of(sizes, *self.canvas_size, self.device)

    def close(self) -> None:
        """Give memory and files back; every process must."""
        self.parts = []
        barrier()
        self.names[rank()].unlink(missing_ok=True)

    def _compute(
        self,
        detector: Detector,
        dataset: CocoDetection,
        limit_gb: float,
        workers: int,
        tick: Callable[[int], None],
    ) -> RowsInMemory | RowsInFile | None:
        """This process's share: its images, then their mirror images; none if there is no image for it."""
        stills = DataLoader(
            _Stills(dataset), batch_sampler=self.deal.batches(rank()), num_workers=workers, collate_fn=list,
            worker_init_fn=prepare_worker,
        )  # fmt: skip
        done, rows = 0, None
        for images in plain_errors(stills):
            for flipped in (False, True)[: 1 + self.mirrored]:
                features = self._encode(detector, images, flipped)
                flat = torch.cat([level.flatten(1) for level in features.values()], 1).cpu().numpy()
                rows = rows or self._allocate(features, flat.shape[1], limit_gb)
                rows.put(self.shares[rank()] * flipped + done, flat)
            done += len(images)
            tick(min(done * self.deal.processes, len(dataset)))
        if rows:
            rows.close()
        return rows

    @torch.no_grad()
    def _encode(self, detector: Detector, images: list[Tensor], flipped: bool) -> OrderedDict[str, Tensor]:
        canvas = to_canvas(detector, [image.flip(-1) if flipped else image for image in images], self.device)
        self.canvas_size = tuple(canvas.tensors.shape[-2:])
        return detector.backbone(canvas.tensors)

    def _allocate(
        self, features: OrderedDict[str, Tensor], width: int, limit_gb: float
    ) -> RowsInMemory | RowsInFile:
        self.shapes = {name: tuple(level.shape[1:]) for name, level in features.items()}
        shape = (self.deal.images * (1 + self.mirrored), width)
        if self.deal.processes > 1 or shape[0] * width * np.dtype(self.dtype).itemsize > limit_gb * 1e9:
            return RowsInFile(self.names[rank()], self.dtype)
        return RowsInMemory(shape, self.dtype)

    def _map(self) -> list[np.ndarray]:
        width = sum(int(np.prod(shape)) for shape in self.shapes.values())
        return [
            map_rows(name, (share * (1 + self.mirrored), width), self.dtype)
            for name, share in zip(self.names, self.shares, strict=True)
            if share  # the first processes have one, if not all do
        ]

    def _row(self, row: int) -> np.ndarray:
        flipped, image = divmod(row, self.deal.images)
        process, position = self.deal.place(image)
        return self.parts[process][self.shares[process] * flipped + position]


class FrozenScenes(Dataset):
    """Items (row of the feature store, target) by key: flips as ``CocoDetection`` draws them."""

    def __init__(self, dataset: CocoDetection) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> tuple[int, dict[str, Any]]:
        index, flipped = key[1], self.dataset.mirrored(key)
        return index + len(self.dataset) * flipped, self.dataset.target(index, flipped)


class _Stills(Dataset):
    def __init__(self, dataset: CocoDetection) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Tensor:
        return self.dataset.still(index)
