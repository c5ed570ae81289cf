"""glibc's memory allocator while a step is repeated: what one step frees, the next one takes again.

By default glibc gives large blocks back to the system as soon as they are free, and the system zeroes new pages for the
next step: for a ResNet-50 at 128 px and 32 images, some 500,000 page faults a step.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

# Parameters of mallopt (malloc.h)
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
KEEPING = {TRIM_THRESHOLD: -1, MMAP_MAX: 0}  # never trim; no blocks of their own, which go back when freed
# What glibc's own adjustment comes to in a process with large blocks; setting a parameter ends that adjustment.
GIVING_BACK = {TRIM_THRESHOLD: 64 * 2**20, MMAP_THRESHOLD: 32 * 2**20, MMAP_MAX: 65536}


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
