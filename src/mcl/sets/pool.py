"""A ``map`` in this process or over worker processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any

from mcl.errors import UserError

CHUNK = 16  # items that a worker is handed at a time


@contextmanager
def mapper(workers: int, start: Callable[..., None] | None = None, *arguments: Any) -> Iterator[Any]:
    """A ``map`` whose results come in order, whatever ``workers`` is.

    Args:
        workers: processes; 1 works in this one.
        start: called with ``arguments`` in each process before anything else.

    Raises:
        UserError: a worker process died.
    """
    if workers == 1:
        if start:
            start(*arguments)
        yield map
        return
    # "spawn": forking a process that already runs torch's threads can hang.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, context, start, arguments) as pool:
            yield partial(pool.map, chunksize=CHUNK)
    except BrokenProcessPool:
        raise UserError(
            f"--workers {workers}: a worker process died (out of memory?); try --workers 1"
        ) from None
