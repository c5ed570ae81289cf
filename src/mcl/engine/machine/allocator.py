"""glibc's memory allocator while a step is repeated: what one step frees, the next one takes again.

By default glibc gives what a step has freed back to the system, and the system zeroes new pages for the next one: for
a ResNet-50 at 128 px and 32 images, some 500,000 page faults a step. Blocks above 32 MB still go back, one by one: with
them kept too (no mmap at all), the heap breaks into pieces and needs a tenth more memory, for little more speed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

# Parameters of mallopt (malloc.h)
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGEST = 32 * 2**20  # glibc allows no higher threshold
KEEPING = {TRIM_THRESHOLD: -1, MMAP_THRESHOLD: LARGEST}  # never trim
# What glibc's own adjustment comes to in a process with large blocks; setting a parameter ends that adjustment.
GIVING_BACK = {TRIM_THRESHOLD: 2 * LARGEST, MMAP_THRESHOLD: LARGEST}


@contextmanager
def freed_memory_kept(wanted: bool = True) -> Iterator[None]:
    """Inside the block (also one within another), freed memory stays with the process; afterwards it is given back.

    Args:
        wanted: False does nothing; so does a C library other than glibc.
    """
    libc = _glibc() if wanted else None
    if libc is None or _Kept.blocks:
        yield
        return
    _Kept.blocks = True
    try:
        _set(libc, KEEPING)
        yield
    finally:
        _Kept.blocks = False
        _set(libc, GIVING_BACK)
        libc.malloc_trim(0)


class _Kept:
    blocks = False


def _set(libc: ctypes.CDLL, values: dict[int, int]) -> None:
    for parameter, value in values.items():
        libc.mallopt(parameter, value)


def _glibc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None)
        return libc if hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "mallopt") else None
    except (OSError, TypeError):  # TypeError: Windows
        return None
