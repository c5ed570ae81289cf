"""All images below a folder: listed once, and for large folders remembered until one of the folders changes.

Nothing changed, for us: every folder that was listed still has its inode, mtime and ctime. The system moves these
when a file or folder is made, removed or renamed in it, when its rights change, and (ctime) even when a tool sets the
mtime back. A file whose content is rewritten in place does not move them and need not: only names are kept. Not
noticed: what a network file system hides behind its own caching of attributes.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mcl.data.sources.left_out import LeftOut
from mcl.data.sources.packed import ImagePaths, PackedStrings, Packer
from mcl.data.sources.pictures import SUFFIXES, UNREAD, Picture, suffix_of
from mcl.data.sources.store import IndexStore, Stored
from mcl.errors import UserError, printable
from mcl.run_files import RUN_FILES

LARGE = 20_000  # files; smaller folders are listed anew every time (a fraction of a second) and leave no trace
# A folder that changed just before it was listed may change again within the same tick of its clock.
SETTLED = 2_000_000_000  # nanoseconds
RULES = ",".join([*sorted(SUFFIXES), "no runs"])  # an index made by other rules is none
State = tuple[int, int, int]  # inode, mtime, ctime of a folder; nanoseconds


def list_folder(root: Path, cache: Path, say: Callable[[str], None]) -> list[Picture] | ImagePaths:
    """Images below ``root``: folder by folder, names sorted in each; links followed once, hidden ones left out.

    Args:
        root: the folder.
        cache: folder for the index of a large one; if it cannot be written, the folder is listed every time.
        say: told what a user should know, in a line.

    Folders of runs are left out, pictures and all; ``say`` hears of them, of folders that cannot be read, and of
    pictures in formats that cannot.

    Returns:
        A list of paths, or for more than 20,000 images ``ImagePaths``; empty if there are none.

    Raises:
        UserError: the folder itself cannot be listed, or is a run's.
    """
    store = IndexStore(cache, os.path.realpath(root))
    if found := store.find(lambda stored: _unchanged(stored, root)):
        return _told(StoredPaths(root, found), say)
    started = time.perf_counter()
    listing = _Listing()
    with ExitStack() as lock:
        writable = False
        for folder in _walk(str(root), listing.left_out):
            small = len(listing.names) <= LARGE
            listing.add(*folder)
            if small and len(listing.names) > LARGE:
                writable = _enter(lock, store)
                # Another process may have listed it while this one waited for the lock.
                if writable and (found := store.find(lambda stored: _unchanged(stored, root))):
                    return _told(StoredPaths(root, found), say)
        for line in (left_out := listing.left_out.lines(str(root))):
            say(line)
        if len(listing.names) <= LARGE:
            return [root / name for name in listing.names.packed()]
        took = f"{len(listing.names):,} images listed in {time.perf_counter() - started:.1f} s"
        if writable:
            try:
                meta = {"rules": RULES, "images": len(listing.names), "left_out": left_out}
                stored = store.write(listing.arrays(), meta)
            except OSError as error:
                writable, reason = False, error.strerror or str(error)
            else:
                say(f"{took}; remembered in {printable(str(stored.folder))} until a folder changes")
                return StoredPaths(root, stored)
        else:
            reason = "no lock file can be made there"
    say(f"{took}; not remembered: {printable(str(store.folder))}: {reason} (--data_cache chooses another place)")
    return ImagePaths(root, listing.names.packed())


class StoredPaths(ImagePaths):
    """``ImagePaths`` whose arrays are files mapped into memory; a process that it is sent to opens them again."""

    def __init__(self, root: Path, stored: Stored) -> None:
        super().__init__(root, _packed(stored, "names"))
        self.stored = stored

    def __reduce__(self):
        return StoredPaths, (self.root, self.stored)


def _told(paths: StoredPaths, say: Callable[[str], None]) -> StoredPaths:
    """What was left out when the folder was listed, said again."""
    for line in paths.stored.meta["left_out"]:
        say(line)
    return paths


@dataclass
class _Listing:
    left_out: LeftOut = field(default_factory=LeftOut)
    names: Packer = field(default_factory=Packer)
    folders: Packer = field(default_factory=Packer)
    states: list[State] = field(default_factory=list)

    def add(self, folder: str, state: State, names: list[str]) -> None:
        prefix = folder and folder + "/"
        for name in names:
            self.names.add(prefix + name)
        self.folders.add(folder)
        self.states.append(state)

    def arrays(self) -> dict[str, np.ndarray]:
        names, folders = self.names.packed(), self.folders.packed()
        return {
            "names": names.blob, "names_ends": names.ends, "folders": folders.blob, "folders_ends": folders.ends,
            "states": np.array(self.states, np.int64),
        }  # fmt: skip


def _walk(root: str, left_out: LeftOut) -> Iterator[tuple[str, State, list[str]]]:
    """(folder relative to root, its state, sorted names of its images), the order of ``os.walk`` on sorted names.

    A folder that cannot be listed is given without names: its state changes when its rights do.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        relative, status = waiting.pop(), None
        path = os.path.join(root, relative) if relative else root
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            found = _scan(path, left_out)
        except FileNotFoundError:
            continue  # it went away
        except OSError as error:
            if not relative:
                raise UserError(f"{root}: cannot be listed: {error.strerror or error}") from None
            left_out.unreadable.append((relative, error.strerror or str(error)))
            if status is None:
                continue
            found = [], []
        if found is None:
            if not relative:
                raise UserError(f"{root}: is the folder of a run, not of images")
            left_out.runs.append(relative)
            continue
        names, folders = found
        yield relative, _state(status, time.time_ns()), names
        prefix = relative and relative + "/"
        waiting.extend(prefix + name for name in reversed(folders))


def _scan(path: str, left_out: LeftOut) -> tuple[list[str], list[str]] | None:
    """Sorted names of a folder's images and folders; none for a run's folder."""
    names: list[str] = []
    folders: list[str] = []
    of_a_run: set[str] = set()
    with os.scandir(path) as entries:
        for entry in entries:
            name = entry.name
            suffix = suffix_of(name)
            if name in RUN_FILES:
                of_a_run.add(name)
            if name.startswith("."):
                continue
            if _is_folder(entry):
                folders.append(name)
            elif suffix in SUFFIXES:
                names.append(name)
            elif suffix in UNREAD:
                left_out.formats[suffix] += 1
    if of_a_run == RUN_FILES:
        return None
    names.sort()
    folders.sort()
    return names, folders


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # a link in a circle is none; one to where nobody may look is found out then
        return error.errno != errno.ELOOP


def _state(status: os.stat_result, now: int | None = None) -> State:
    if now is not None and max(status.st_mtime_ns, status.st_ctime_ns) > now - SETTLED:
        return -1, -1, -1  # equals no state: the next run lists again
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def _unchanged(stored: Stored, root: Path) -> bool:
    if stored.meta.get("rules") != RULES:
        return False
    names, states = _packed(stored, "folders"), stored.array("states")
    if len(names) != len(states) or len(_packed(stored, "names")) != stored.meta.get("images"):
        return False
    try:
        return all(
            _state(os.stat(os.path.join(root, name) if name else root)) == tuple(state)
            for name, state in zip(names, states.tolist(), strict=True)
        )
    except (OSError, ValueError):
        return False


def _packed(stored: Stored, name: str) -> PackedStrings:
    return PackedStrings(stored.array(name), stored.array(f"{name}_ends"))


def _enter(stack: ExitStack, store: IndexStore) -> bool:
    try:
        stack.enter_context(store.locked())
    except OSError:
        return False
    return True
