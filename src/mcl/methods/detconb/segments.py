"""Segments of a picture by Felzenszwalb and Huttenlocher's graph cut, as the paper's unsupervised masks."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from skimage.segmentation import felzenszwalb
from torch import Tensor

from mcl.data.computed import Computed
from mcl.data.sources.pictures import Picture

SIZE = 128  # side of a kept map of segments, whatever the picture's shape: its points are fractions of width and height
MOST = 256  # segments that are told apart
PAPER_AREA = 500 * 375  # pixels of a usual picture, for which the paper gives its settings


@dataclass(frozen=True)
class Felzenszwalb:
    """Picture -> (SIZE, SIZE) uint8 numbers of segments, packed.

    Attributes:
        scale: of the cut: the larger, the fewer segments. For a picture of ``PAPER_AREA``; it goes with the area.
        min_size: pixels of the smallest segment, likewise.
        side: longer side in pixels at which a picture is segmented.
    """

    scale: float
    min_size: float
    side: int

    def __call__(self, image: Image.Image) -> bytes:
        share = image.width * image.height / PAPER_AREA
        found = felzenszwalb(np.asarray(image), self.scale * share, min_size=max(1, round(self.min_size * share)))
        rows, columns = (((np.arange(SIZE) + 0.5) * n / SIZE).astype(int) for n in found.shape)
        return zlib.compress(np.minimum(found, MOST - 1).astype(np.uint8)[np.ix_(rows, columns)].tobytes())


@dataclass(frozen=True)
class Segments:
    """(picture, number) -> ``{"segments": (SIZE, SIZE) uint8}``, as kept."""

    kept: Computed

    def __call__(self, picture: Picture, number: int) -> dict[str, Tensor]:
        packed = self.kept[number]
        content = zlib.decompress(packed) if packed else bytes(SIZE * SIZE)
        return {"segments": torch.frombuffer(bytearray(content), dtype=torch.uint8).view(SIZE, SIZE)}
