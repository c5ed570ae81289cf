"""Which proposals of a picture look like objects, ranked without labels.

"What is an object?" (Alexe et al., CVPR 2010, sections 2.2 and 2.4): an object's colours differ from those around it,
and its box cuts through few of the picture's segments.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision.ops import nms

from mcl.methods.proposals import SIGMA, as_kept, bgr, of_shape, search

SCALES = (100, 300)  # of the graph cuts that selective search starts from
SEGMENTS, LEAST_PIXELS = 300, 20  # scale of the graph cut whose segments boxes should not cut; their least size
LEVELS = (4, 8, 8)  # steps of L, a and b that colours are counted in
AROUND = 1.4  # side of what counts as around a box, over the box's
CUT_OFF = 0.6  # factor for every edge of the picture that a box touches: what is cut off is rarely an object
OVERLAP = 0.5  # IoU from which the better of two boxes stands for both


@dataclass(frozen=True)
class ObjectSearch:
    """Picture -> its best proposals, the best first, as ``Proposals`` reads them.

    Attributes:
        most: proposals kept.
        size: least and most of sqrt(area of the box / area of the picture).
        ratio: most of longer side / shorter side.
        side: longer side in pixels at which a picture is searched.
    """

    most: int
    size: tuple[float, float] = (0.12, 0.9)
    ratio: float = 3.5
    side: int = 128

    def __call__(self, image: Image.Image) -> bytes:
        pixels = bgr(image)
        found = np.unique(np.concatenate([search(pixels, scale) for scale in SCALES]), axis=0)
        boxes = of_shape(found, image.width, image.height, self.size, self.ratio)
        best = nms(torch.from_numpy(boxes), torch.from_numpy(objectness(pixels, boxes)), OVERLAP)[: self.most]
        return as_kept(boxes[best.numpy()], image.width, image.height).tobytes()


def objectness(pixels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(n,) scores of boxes: colour contrast x segments that are not cut, less for boxes at the picture's edges.

    Args:
        pixels: (h, w, 3) uint8 BGR.
        boxes: (n, 4) left, top, right, bottom in whole pixels.
    """
    height, width = pixels.shape[:2]
    touched = (boxes <= 1)[:, :2].sum(axis=1) + (boxes[:, 2:] >= (width - 1, height - 1)).sum(axis=1)
    return colour_contrast(pixels, boxes) * uncut(pixels, boxes) * CUT_OFF**touched


def colour_contrast(pixels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(n,) chi-square distances, 0..1, of the colours inside boxes from those around them (section 2.2)."""
    height, width = pixels.shape[:2]
    lab = cv2.cvtColor(pixels, cv2.COLOR_BGR2LAB).astype(int)
    lightness = lab[..., 0] * LEVELS[0] // 256
    # In 8 bits a and b seldom leave 64..191.
    a, b = (((lab[..., i] - 64) * LEVELS[i] // 128).clip(0, LEVELS[i] - 1) for i in (1, 2))
    sums = _summed((lightness * LEVELS[1] + a) * LEVELS[2] + b, int(np.prod(LEVELS)))
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) * AROUND / 2 + 2
    wider = np.concatenate([middle - half, middle + half], axis=1).clip(0, (width, height, width, height)).round()
    inside = _within(sums, boxes)
    inner, outer = _shares(inside), _shares(_within(sums, wider) - inside)
    return 0.5 * ((inner - outer) ** 2 / (inner + outer + 1e-9)).sum(axis=1)


def uncut(pixels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(n,) 1 less the share of each box's area that lies in segments which its edges cut (section 2.4), 0..1."""
    segments = cv2.ximgproc.segmentation.createGraphSegmentation(SIGMA, SEGMENTS, LEAST_PIXELS).processImage(pixels)
    sums = _summed(segments, int(segments.max()) + 1)
    inside = _within(sums, boxes)
    cut = np.minimum(inside, sums[-1, -1] - inside).sum(axis=1)
    return (1 - cut / np.maximum(inside.sum(axis=1), 1)).clip(0, 1)


def _summed(labels: np.ndarray, kinds: int) -> np.ndarray:
    """(h, w) labels -> (h + 1, w + 1, kinds): how many pixels above and left have each label."""
    counts = np.zeros((labels.shape[0] + 1, labels.shape[1] + 1, kinds), np.float32)
    rows, columns = np.indices(labels.shape)
    counts[rows + 1, columns + 1, labels] = 1
    return counts.cumsum(axis=0, out=counts).cumsum(axis=1, out=counts)


def _within(sums: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(n, kinds) pixels of each label in (n, 4) boxes of whole pixels."""
    left, top, right, bottom = boxes.T.astype(int)
    return sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]


def _shares(counts: np.ndarray) -> np.ndarray:
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
