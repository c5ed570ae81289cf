"""Tar shards from a URL or a command: fetched once into the cache, then local shards like any others.

A stream can only be read in its own order. To shuffle well and to resume exactly, every picture must be at hand at any
time, so what cannot be read by seek is brought here first.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mcl.data.sources.store import IndexStore
from mcl.errors import UserError, printable

URL = re.compile(r"(pipe:|[A-Za-z][A-Za-z0-9+.-]+://)")


def is_remote(source: str) -> bool:
    """Whether a source is a URL or a ``pipe:`` command."""
    return URL.match(source) is not None


def fetch_shards(urls: Sequence[str], cache: Path, say: Callable[[str], None]) -> list[str]:
    """Local copies of tar shards; those fetched before are not fetched again.

    Args:
        urls: ``http(s)://``, ``gs://`` ... or ``pipe:COMMAND`` (run by the shell), as webdataset opens them.

    Raises:
        UserError: webdataset is not installed, a shard cannot be fetched, or is no tar file.
    """
    paths = [cache / "shards" / _file_name(url) for url in urls]
    for number, (url, path) in enumerate(zip(urls, paths, strict=True), start=1):
        if path.is_file():
            continue
        store = IndexStore(cache, f"fetch\n{url}")
        try:
            with store.locked():
                if not path.is_file():  # another process may have fetched it meanwhile
                    started = time.perf_counter()
                    _fetch(url, path)
                    took = f"{path.stat().st_size / 1e6:,.1f} MB in {time.perf_counter() - started:.1f} s"
                    say(f"fetched shard {number} of {len(urls)} ({took}): {printable(url)} -> {path}")
        except OSError as error:
            raise UserError(f"{url}: cannot be kept in {cache}: {error.strerror or error} (--data_cache)") from None
    return [str(path) for path in paths]


def _fetch(url: str, path: Path) -> None:
    try:
        from webdataset.gopen import gopen
    except ImportError:
        raise UserError(f"{url}: shards from a URL or a command need webdataset: pip install 'mcl[shards]'") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            _copy(gopen, url, file)
            file.flush()
            os.fsync(file.fileno())
        if not tarfile.is_tarfile(partial):
            raise UserError(f"{url}: what came from there is no tar file ({partial.stat().st_size:,} bytes)")
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def _copy(gopen: Callable, url: str, file) -> None:
    try:
        stream = gopen(url)
    except Exception as error:  # an unknown scheme, or the program that fetches it is not installed
        raise UserError(f"{url}: cannot be opened: {printable(str(error))}") from None
    try:
        shutil.copyfileobj(_Source(stream), file, 2**20)
        stream.close()  # tells how the command ended
    except _SourceFailed as error:
        raise UserError(f"{url}: fetching failed: {error}") from None
    except OSError as error:
        if error.errno is None:  # webdataset's own: the command's exit code
            raise UserError(f"{url}: fetching failed: {printable(str(error))[:200]}") from None
        raise


class _SourceFailed(Exception):
    """Reading failed, as opposed to writing."""


class _Source:
    def __init__(self, stream) -> None:
        self.stream = stream

    def read(self, size: int) -> bytes:
        try:
            return self.stream.read(size)
        except Exception as error:
            raise _SourceFailed(printable(str(error))[:200]) from None


def _file_name(url: str) -> str:
    """A short name that is safe as a file's, and different for every URL."""
    tail = re.sub(r"[^A-Za-z0-9._-]+", "_", url.split("?")[0])[-40:].lstrip("._")
    return f"{hashlib.blake2b(url.encode(), digest_size=8).hexdigest()}-{tail.removesuffix('.tar')}.tar"
