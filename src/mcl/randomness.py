"""Randomness as a function of numbers such as (seed, epoch, image index, view), never of process state.

That is what makes a resumed run equal an uninterrupted one, with any number of workers.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# First word of a seed: keeps the streams apart that use the same numbers for different things.
STREAM_VIEWS, STREAM_ORDER, STREAM_MONTAGE, STREAM_STEP, STREAM_DETECTION, STREAM_WEIGHTS, STREAM_CHECK = (
    range(7)
)
STREAM_REGIONS = 32  # boxes and masks that a step looks at


def seed_for(*numbers: int) -> int:
    """A well-mixed 63-bit seed from any tuple of integers (the same on every machine and in every process)."""
    digest = hashlib.blake2b(struct.pack(f"<{len(numbers)}q", *numbers), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator_for(*numbers: int) -> torch.Generator:
    """A CPU generator seeded with ``seed_for(*numbers)``."""
    return torch.Generator().manual_seed(seed_for(*numbers))


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
