"""Images inside tar shards, read by seek: the members' places are indexed once, so any order is as quick as any other."""

from __future__ import annotations

import io
import os
import tarfile
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mcl.data.sources.index import LARGE, RULES
from mcl.data.sources.packed import PackedStrings, Packer
from mcl.data.sources.pictures import Pictures, has_picture_suffix, require_short
from mcl.data.sources.store import IndexStore, Stored
from mcl.errors import UserError, printable

LONGEST_HEADER = 2**20  # bytes; long names are a few hundred
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True)
class TarPicture:
    """A member of a shard. Its name is only a name: nothing is ever written or looked for under it."""

    shard: str
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.shard}/{self.name}"

    def read_bytes(self, most: int | None = None) -> bytes:
        """The encoded picture; raises ``OSError`` if the shard is gone or has become shorter, or above ``most``."""
        require_short(self.size, most)
        with open(self.shard, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), self.size, self.offset)
        if len(data) < self.size:
            raise OSError("the shard ends inside this picture")
        return data


class TarPictures(Pictures):
    """The images of tar shards, shard by shard in the order of their members.

    Args:
        shards: paths of the tar files.
        members: names, shard by shard.
        places: (n, 3) int64: number of the shard, offset and size in bytes.
        stored: where the arrays are mapped from, if they are.
    """

    def __init__(
        self, shards: Sequence[str], members: PackedStrings, places: np.ndarray, stored: Stored | None = None
    ) -> None:
        self.shards, self.members, self.places, self.stored = list(shards), members, places, stored

    @classmethod
    def open(cls, shards: Sequence[str], stored: Stored) -> TarPictures:
        """From an index on disk."""
        members = PackedStrings(stored.array("members"), stored.array("members_ends"))
        return cls(shards, members, stored.array("places"), stored)

    def __reduce__(self):
        if self.stored is not None:
            return TarPictures.open, (self.shards, self.stored)
        return TarPictures, (self.shards, self.members, self.places)

    def __len__(self) -> int:
        return len(self.members)

    def picture(self, index: int) -> TarPicture:
        shard, offset, size = self.places[index].tolist()
        return TarPicture(self.shards[shard], self.members[index], offset, size)

    def names(self) -> Iterator[str]:
        shards = self.places[:, 0]
        return (f"{self.shards[shard]}/{name}" for shard, name in zip(shards, self.members, strict=True))

    def sizes(self) -> Iterator[int]:
        return map(int, self.places[:, 2])


def list_shards(shards: Sequence[str], cache: Path, say: Callable[[str], None]) -> TarPictures:
    """Index the images of tar files; for more than 20,000 the index is kept in ``cache`` and reused.

    An index counts as current while every shard has its size and mtime.

    Raises:
        UserError: a shard is missing, compressed, damaged or cut off; or none holds an image.
    """
    whole = [os.path.realpath(shard) for shard in shards]
    states = [_state(shard) for shard in whole]
    store = IndexStore(cache, "\n".join(["tar", *whole]))
    if found := store.find(lambda stored: stored.meta["states"] == states and stored.meta["rules"] == RULES):
        return TarPictures.open(shards, found)
    started = time.perf_counter()
    members, places = Packer(), array("q")
    for number, shard in enumerate(shards):
        for name, offset, size in read_members(shard):
            members.add(name)
            places.extend((number, offset, size))
    if not len(members):
        others = f" or the other {len(shards) - 1} shards" if len(shards) > 1 else ""
        raise UserError(f"{shards[0]}: no image in it{others}")
    packed, table = members.packed(), np.frombuffer(places, np.int64).reshape(-1, 3)
    took = f"{len(packed):,} images in {len(shards)} shard(s) indexed in {time.perf_counter() - started:.1f} s"
    if len(packed) <= LARGE:
        return TarPictures(shards, packed, table)
    try:
        with store.locked():
            arrays = {"members": packed.blob, "members_ends": packed.ends, "places": table}
            stored = store.write(arrays, {"states": states, "rules": RULES})
    except OSError as error:
        say(f"{took}; not remembered: {printable(str(store.folder))}: {error.strerror or error} (--data_cache)")
        return TarPictures(shards, packed, table)
    say(f"{took}; remembered in {printable(str(stored.folder))} until a shard changes")
    return TarPictures.open(shards, stored)


def read_members(shard: str) -> Iterator[tuple[str, int, int]]:
    """(name, offset, size) of the images in a tar file; reads headers only.

    Raises:
        UserError: missing, compressed, damaged or cut off.
    """
    try:
        with _Headers(shard) as file, tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as archive:
            length, end = os.stat(shard).st_size, 0
            while (member := archive.next()) is not None:
                archive.members = []  # it would keep every header in memory
                # A size below zero would send the reader in circles; the other is a shard that was cut off.
                if member.size < 0 or member.offset_data < end:
                    raise tarfile.ReadError(f"bad size of member {member.name!r}")
                if member.isreg() and member.offset_data + member.size > length and not member.issparse():
                    raise tarfile.ReadError(f"ends inside member {member.name!r}")
                end = member.offset_data
                base = member.name.rpartition("/")[2]
                if member.isreg() and not member.issparse() and has_picture_suffix(base):
                    yield member.name, member.offset_data, member.size
            # The reader takes a damaged header, or the end of a file that was cut between two members, for the end.
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                raise tarfile.ReadError(f"no end mark after {archive.offset:,} bytes")
    except FileNotFoundError:
        raise UserError(f"{shard}: no such file") from None
    except Exception as error:  # damaged headers can raise anything
        compression = _compression(shard)
        if compression:
            raise UserError(f"{shard}: compressed with {compression}; unpack it to a plain .tar first (pictures are read by seek)") from None
        reason = printable(str(error))[:200] or type(error).__name__
        raise UserError(f"{shard}: damaged or no tar file ({reason}); make or fetch it again") from None


class _Headers(io.FileIO):
    """A file of which no more is read at once than a header may have, whatever the file says of its length."""

    def read(self, size: int = -1) -> bytes:
        if size is None or not 0 <= size <= LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size)


def _state(shard: str) -> list[int]:
    try:
        status = os.stat(shard)
    except OSError as error:
        raise UserError(f"{shard}: {error.strerror or error}") from None
    return [status.st_size, status.st_mtime_ns]


def _compression(shard: str) -> str | None:
    try:
        with open(shard, "rb") as file:
            start = file.read(6)
    except OSError:
        return None
    return next((name for magic, name in COMPRESSED.items() if start.startswith(magic)), None)
