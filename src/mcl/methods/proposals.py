"""Object proposals of a picture by selective search, filtered as in SoCo's paper (arXiv 2106.02637, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mcl.data.computed import Computed
from mcl.data.sources.pictures import Picture
from mcl.errors import UserError

MOST = 64  # proposals kept of a picture
SIGMA = 0.9  # of the blur before the graph cut, as the authors'
BYTES = 4 * np.dtype(np.uint16).itemsize  # of a proposal, as kept
STEPS = np.iinfo(np.uint16).max  # of a fraction of width or height, as kept


def require_selective_search(setting: str) -> None:
    """Raises UserError: OpenCV is there without its contributed modules, which ``setting`` needs."""
    if not hasattr(cv2, "ximgproc"):
        raise UserError(
            f"{setting}: this OpenCV ({cv2.__version__}) has no selective search; "
            "pip install opencv-contrib-python-headless instead of it"
        )


def bgr(image: Image.Image) -> np.ndarray:
    """An RGB picture as OpenCV wants it: (h, w, 3) uint8."""
    return np.ascontiguousarray(np.asarray(image)[..., ::-1])


def search(pixels: np.ndarray, scale: int) -> np.ndarray:
    """Selective search with one graph cut: (h, w, 3) uint8 BGR -> (n, 4) x, y, width, height in pixels.

    Args:
        scale: of the graph cut that it starts from: the larger, the fewer proposals.
    """
    cv2.setNumThreads(1)  # there are as many processes as cores
    searching = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    searching.setBaseImage(pixels)
    searching.switchToSingleStrategy(scale, SIGMA)
    return np.asarray(searching.process(), dtype=float).reshape(-1, 4)


def of_shape(
    found: np.ndarray, width: int, height: int, size: tuple[float, float], ratio: float
) -> np.ndarray:
    """Of (n, 4) x, y, width, height in pixels those of a size and a shape: (m, 4) left, top, right, bottom in pixels.

    Args:
        size: least and most of sqrt(area of the box / area of the picture).
        ratio: most of longer side / shorter side.
    """
    x, y, w, h = np.asarray(found, dtype=float).reshape(-1, 4).T
    share = np.sqrt(w * h / (width * height))
    wanted = (share >= size[0]) & (share <= size[1]) & (np.maximum(w, h) <= ratio * np.minimum(w, h))
    return np.stack([x, y, x + w, y + h], axis=1)[wanted]


def as_kept(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """(n, 4) left, top, right, bottom in pixels -> uint16, in ``STEPS`` of width and height."""
    return ((boxes / (width, height, width, height)).clip(0, 1) * STEPS).round().astype(np.uint16)


@dataclass(frozen=True)
class SelectiveSearch:
    """Picture -> its proposals: (n, 4) uint16, left, top, right, bottom in 65535ths of width and height; n <= MOST.

    Attributes:
        scale: of the graph cut that it starts from.
        size: least and most of sqrt(area of the box / area of the picture).
        ratio: most of longer side / shorter side.
        side: longer side in pixels at which a picture is searched.
    """

    scale: int
    size: tuple[float, float]
    ratio: float
    side: int

    def __call__(self, image: Image.Image) -> bytes:
        return self.kept(search(bgr(image), self.scale), image.width, image.height).tobytes()

    def kept(self, found: np.ndarray, width: int, height: int) -> np.ndarray:
        """Of (n, 4) x, y, width, height in pixels: those of the right size and shape, each once, in an order of their own.

        (OpenCV ranks proposals by chance, so its order says nothing.)
        """
        boxes = np.unique(as_kept(of_shape(found, width, height, self.size, self.ratio), width, height), axis=0)
        # Too many: every so-and-so-many of the sorted ones, so that they come from all over the picture.
        return boxes[np.linspace(0, len(boxes) - 1, min(MOST, len(boxes))).round().astype(int)]


@dataclass(frozen=True)
class Proposals:
    """(picture, number) -> ``{"boxes": (MOST, 4) float32 fractions, "count": how many of them there are}``, as kept."""

    kept: Computed

    def __call__(self, picture: Picture, number: int) -> dict[str, Tensor | int]:
        found = np.frombuffer(self.kept[number], dtype=np.uint16).reshape(-1, 4)
        boxes = torch.zeros(MOST, 4)
        boxes[: len(found)] = torch.from_numpy(found.astype(np.float32) / STEPS)
        return {"boxes": boxes, "count": len(found)}
