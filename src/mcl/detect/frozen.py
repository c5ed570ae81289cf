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
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList

from mcl.data.coco import CocoDetection
from mcl.data.loader import plain_errors
from mcl.detect.detector import head_convs
from mcl.detect.forward import canvas_of, to_canvas


def freeze(detector: FasterRCNN, what: str) -> list[nn.Module]:
    """Stop training ``what`` and return its modules, which must be kept in eval mode.

    Args:
        what: ``none``, ``backbone``, or ``trunk`` (backbone, pyramid and the box head's convolutions).
    """
    modules: list[nn.Module] = []
    if what == "backbone":
        modules = [detector.backbone.body]
    elif what == "trunk":
        modules = [detector.backbone, *list(detector.roi_heads.box_head)[: head_convs(detector)]]
    for module in modules:
        module.requires_grad_(False)
    return modules


class FeatureStore:
    """Features p2..p5, pool of every still training image (and its mirror image), one row each.

    Args:
        detector: with a frozen trunk; put into eval mode while features are computed.
        dataset: its still images are encoded.
        mirrored: also encode mirror images.
        dtype: ``float16`` or ``float32``.
        file: where rows go if they take more than ``limit_gb``; they stay in memory otherwise.
        tick: called with the number of images done after every batch.
    """

    def __init__(
        self,
        detector: FasterRCNN,
        dataset: CocoDetection,
        mirrored: bool,
        dtype: str,
        file: Path,
        limit_gb: float,
        device: torch.device,
        batch: int = 16,
        workers: int = 0,
        tick: Callable[[int], None] = lambda done: None,
    ) -> None:
        self.mirrored, self.device = mirrored, device
        stills = DataLoader(_Stills(dataset), batch, num_workers=workers, collate_fn=list)
        done, self.rows = 0, None
        for images in plain_errors(stills):
            done += len(images)
            first = done - len(images)
            for flipped in (False, True)[: 1 + mirrored]:
                features = self._encode(detector, images, flipped)
                if self.rows is None:
                    self._allocate(features, len(dataset), dtype, file, limit_gb)
                flat = torch.cat([level.flatten(1) for level in features.values()], 1).cpu().numpy()
                where = slice(len(dataset) * flipped + first, len(dataset) * flipped + done)
                self.rows[where] = flat.astype(dtype)
            tick(done)

    def features(self, rows: Sequence[int]) -> OrderedDict[str, Tensor]:
        """p2..p5, pool of these rows (index, or index + number of images for the mirror image) as float32."""
        flat = torch.from_numpy(np.ascontiguousarray(self.rows[list(rows)])).to(self.device).float()
        pieces = flat.split([int(np.prod(shape)) for shape in self.shapes.values()], 1)
        return OrderedDict(
            (k, piece.view(len(rows), *s)) for (k, s), piece in zip(self.shapes.items(), pieces, strict=True)
        )

    def canvas(self, sizes: Sequence[tuple[int, int]]) -> ImageList:
        """The canvas that features belong to, with the sizes of the images on it."""
        return canvas_of(sizes, *self.canvas_size, self.device)

    def close(self) -> None:
        """Give the memory, or the file, back."""
        file = getattr(self.rows, "filename", None)
        self.rows = None
        if file is not None:
            Path(file).unlink(missing_ok=True)

    @torch.no_grad()
    def _encode(self, detector: FasterRCNN, images: list[Tensor], flipped: bool) -> OrderedDict[str, Tensor]:
        canvas = to_canvas(detector, [image.flip(-1) if flipped else image for image in images], self.device)
        self.canvas_size = tuple(canvas.tensors.shape[-2:])
        return detector.backbone(canvas.tensors)

    def _allocate(
        self, features: OrderedDict[str, Tensor], images: int, dtype: str, file: Path, limit_gb: float
    ) -> None:
        self.shapes = {name: tuple(level.shape[1:]) for name, level in features.items()}
        shape = (images * (1 + self.mirrored), sum(int(np.prod(s)) for s in self.shapes.values()))
        if np.prod(shape, dtype=float) * np.dtype(dtype).itemsize > limit_gb * 1e9:
            self.rows = np.memmap(file, dtype, "w+", shape=shape)
        else:
            self.rows = np.empty(shape, dtype)


class FrozenScenes(Dataset):
    """Items (row of the feature store, target) by (epoch, index): flips as ``CocoDetection`` draws them."""

    def __init__(self, dataset: CocoDetection) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, dict[str, Any]]:
        epoch, index = key
        flipped = self.dataset.mirrored(epoch, index)
        return index + len(self.dataset) * flipped, self.dataset.target(index, flipped)


class _Stills(Dataset):
    def __init__(self, dataset: CocoDetection) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Tensor:
        return self.dataset.still(index)
