"""COCO's run-length counts, read before native code is given them."""

from __future__ import annotations

from typing import Any

import numpy as np

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
