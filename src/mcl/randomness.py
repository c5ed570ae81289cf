"""Randomness as a function of numbers such as (seed, epoch, image index, view), never of process state.

That is what makes a resumed run equal an uninterrupted one, with any number of workers.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

# First word of a seed: keeps the streams apart that use the same numbers for different things.
STREAM_VIEWS, STREAM_ORDER, STREAM_MONTAGE, STREAM_STEP, STREAM_DETECTION, STREAM_WEIGHTS, STREAM_CHECK = (
    range(7)
)
STREAM_REGIONS = 32  # boxes and masks that a step looks at
STREAM_PASTE, STREAM_STITCH = 48, 49  # what is pasted into a scene; which images are stitched

GAMMA = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd


def seed_for(*numbers: int) -> int:
    """A well-mixed 63-bit seed from any tuple of integers (the same on every machine and in every process)."""
    digest = hashlib.blake2b(struct.pack(f"<{len(numbers)}q", *numbers), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator_for(*numbers: int) -> torch.Generator:
    """A CPU generator seeded with ``seed_for(*numbers)``."""
    return torch.Generator().manual_seed(seed_for(*numbers))


def uniform(count: int, *words: int | np.ndarray) -> np.ndarray:
    """Uniform numbers in [0, 1) as a function of ``words``, for many tuples of words at once.

    SplitMix64 (Steele, Lea, Flood 2014): number j is the mixed value of (state + j gamma), so a whole table is a few
    operations on arrays where a generator for each tuple would cost more than the use of its numbers.

    Args:
        count: numbers for each tuple.
        words: integers, or arrays of integers that broadcast against each other.

    Returns:
        float64 of shape (*broadcast shape of words, count).
    """
    state = np.zeros((1,), np.uint64)
    for word in words:
        state = _mix((state + GAMMA) ^ _mix(np.atleast_1d(np.asarray(word)).astype(np.int64).view(np.uint64)))
    shape = np.broadcast_shapes(*(np.shape(word) for word in words))
    steps = np.arange(1, count + 1, dtype=np.uint64) * GAMMA
    mixed = _mix(state.reshape(*shape, 1) + steps)
    return (mixed >> np.uint64(11)) * 2.0**-53


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Run a block on torch's default CPU generator seeded by ``numbers``; restores its state afterwards.

    torchvision's transforms draw from the default generator and take no other.
    """
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed_for(*numbers))
    try:
        yield
    finally:
        torch.default_generator.set_state(state)
