"""COCO's run-length counts, read before native code is given them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco_mask

OFFSET, DATA, MORE, SIGN = 48, 0x1F, 0x20, 0x10  # a character carries 5 bits, least first
LONGEST = 7  # characters of a number: 32 bits and a sign


def read_counts(counts: Any) -> list[int]:
    """Run lengths of a mask, background first.

    Args:
        counts: a list of whole numbers, or COCO's compressed string: numbers of 5 bits a character, from the third
            on each as the difference to the one two before.

    Returns:
        The lengths; ``[-1]`` (which adds up to no image) if they are not lengths of at least 0.
    """
    if isinstance(counts, str):
        return _decompress(counts)
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        return [-1]
    return counts


def _decompress(text: str) -> list[int]:
    if not text or not text.isascii():
        return [-1]
    codes = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - OFFSET
    ends = np.flatnonzero((codes & MORE) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    if codes.min() < 0 or codes.max() >= 2 * MORE or not len(ends) or ends[-1] != len(codes) - 1:
        return [-1]
    lengths = ends - starts + 1
    if lengths.max() > LONGEST:
        return [-1]
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes & DATA) << (5 * place), starts)
    values -= np.where(codes[ends] & SIGN, 1 << (5 * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values.tolist() if (values >= 0).all() else [-1]


@dataclass(frozen=True)
class Region:
    """Where a map has a value: RLE in COCO's form with a compressed string, (x, y, width, height), pixels."""

    rle: dict[str, Any]
    box: tuple[int, int, int, int]
    area: int


def masks_of(values: np.ndarray) -> dict[int, Region]:
    """The region of every value of an integer map (H, W), in one pass over it.

    A mask per value would be cut out of the map as often as there are values; an image of a street has dozens.
    """
    height, width = values.shape
    flat = values.T.ravel()  # COCO counts down the columns
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1]) if flat.size else np.zeros(0, int)
    ends = np.append(starts[1:], flat.size)
    order = np.argsort(flat[starts], kind="stable")
    found, places = np.unique(flat[starts][order], return_index=True)
    return {
        int(value): _region(starts[runs], ends[runs], height, width)
        for value, runs in zip(found, np.split(order, places[1:]), strict=True)
    }


def _region(starts: np.ndarray, ends: np.ndarray, height: int, width: int) -> Region:
    counts = np.stack([starts - np.append(0, ends[:-1]), ends - starts], axis=1).ravel().tolist()
    if ends[-1] < height * width:
        counts.append(int(height * width - ends[-1]))
    left, right = int(starts[0] // height), int((ends[-1] - 1) // height)
    # A run that goes over a column's end touches the image's top and bottom.
    over = starts // height != (ends - 1) // height
    top = 0 if over.any() else int((starts % height).min())
    bottom = height - 1 if over.any() else int(((ends - 1) % height).max())
    return Region(
        compressed(counts, height, width),
        (left, top, right - left + 1, bottom - top + 1),
        int((ends - starts).sum()),
    )


def compressed(counts: list[int], height: int, width: int) -> dict[str, Any]:
    """RLE with run lengths as COCO's compressed string."""
    rle = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    text = rle["counts"]
    return {"size": [height, width], "counts": text.decode("ascii") if isinstance(text, bytes) else text}
