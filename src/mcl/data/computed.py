"""What is computed of every picture once and kept: object proposals, masks. Killed half-way, it goes on where it was.

    CACHE/computed/NAME-KEY/about.json part-000000.npy part-000001.npy ...

The key is made of the pictures' fingerprint and of what is computed, so that other data or settings get a folder of
their own. A part holds the results of ``PART`` pictures, and is written aside and renamed: it is whole or not there.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import wait as wait_for_end
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from mcl.data.loading.decode import UnreadableImage, read_image
from mcl.data.sources.find import fingerprint
from mcl.data.sources.pictures import Picture
from mcl.errors import Interrupted, RunFailed, UserError, printable
from mcl.signals import STOPPING, StopWaiting, catch_signals

FORMAT = 1
PART = 128  # pictures
TELL_EVERY = 60  # seconds
STALE = 3600  # seconds after which a file that was never renamed is another run's no more
OFFSET = np.dtype("<i8")


class Compute(Protocol):
    """What is computed of a picture: picklable, and its ``repr`` says everything that its result depends on."""

    #: pixels of the longer side that are enough; the picture is decoded and shrunk to them
    side: int

    def __call__(self, image: Image.Image) -> bytes: ...


@dataclass(frozen=True)
class Survey:
    """The pictures of a run, for whoever must know something of all of them before anything is built.

    Attributes:
        pictures: of the run.
        cache: folder for what is computed (``cache_folder``).
        workers: processes that compute.
        max_pixels: of a picture that is decoded.
        say: told what a user should know, a line at a time.
        progress: (title, pictures in all, done so far) -> a context whose value has ``advance(done)``.
    """

    pictures: Sequence[Picture]
    cache: Path
    workers: int = 1
    max_pixels: int | None = None
    say: Callable[[str], None] = lambda line: None
    progress: Callable[[str, int, int], AbstractContextManager[Any]] = lambda *_: nullcontext()

    def of_each(self, name: str, compute: Compute) -> Computed:
        """The results of ``compute`` for every picture, computed where they are not kept yet.

        A picture that cannot be read has the empty result.

        Args:
            name: of the results, for the folder and the progress bar.

        Raises:
            UserError: the cache cannot be written.
            RunFailed: a process that computes died, or the disk is full.
            Interrupted: SIGINT or SIGTERM came; what was computed is kept.
        """
        about = {"format": FORMAT, "what": repr(compute), "data_fingerprint": fingerprint(self.pictures), "images": len(self.pictures)}  # fmt: skip
        key = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=8).hexdigest()
        kept = Computed(self.cache / "computed" / f"{name}-{key}", len(self.pictures))
        if missing := kept.missing():
            try:
                _begin(kept.folder, about)
                self._compute(name, compute, kept, missing)
            except OSError as error:
                raise UserError(
                    f"{name} cannot be kept in {printable(str(kept.folder))}: {error.strerror or error}; "
                    "choose another folder for the cache"
                ) from None
        return kept

    def _compute(self, name: str, compute: Compute, kept: Computed, missing: Sequence[int]) -> None:
        started = time.perf_counter()
        count = sum(len(kept.of_part(part)) for part in missing)
        done = kept.images - count
        self.say(f"{name} of {count:,} images are computed once, by {min(self.workers, len(missing))} processes, and kept")
        told = started
        try:
            with catch_signals() as caught, caught.while_waiting(), self.progress(name, kept.images, done) as bar:
                for part in self._parts(kept, compute, missing):
                    done += len(kept.of_part(part))
                    if bar is not None:
                        bar.advance(done)
                    if time.perf_counter() - told > TELL_EVERY:  # where no bar is seen
                        told = time.perf_counter()
                        self.say(f"{name}: {done:,} of {kept.images:,} images")
        except StopWaiting:
            text = f"stopped by {signal.Signals(caught.number).name}: {name} of {done:,} of {kept.images:,} images are kept"
            raise Interrupted(f"{text}; start again to go on", caught.number) from None
        except BrokenProcessPool:
            raise RunFailed(
                f"a process that computed {name} died (out of memory?); {done:,} of {kept.images:,} images are done "
                "and kept, start again to go on"
            ) from None
        took = time.perf_counter() - started
        self.say(f"{name} of {count:,} images computed in {took:.1f} s; kept in {printable(str(kept.folder))}")

    def _parts(self, kept: Computed, compute: Compute, missing: Sequence[int]) -> Iterator[int]:
        """Computes parts and gives their numbers as they are done."""
        tasks = ((kept, part, [self.pictures[i] for i in kept.of_part(part)], compute, self.max_pixels) for part in missing)
        workers = min(self.workers, len(missing))
        if workers == 1:
            yield from (_write_part(*task) for task in tasks)
            return
        # "spawn": forking a process that already runs torch's threads can hang.
        context = multiprocessing.get_context("spawn")
        stop = context.Event()
        pool, running = ProcessPoolExecutor(workers, context, _begin_worker, (stop,)), set()
        try:
            while True:
                # One more than can run: of a million pictures the others are not pickled yet.
                running |= {pool.submit(_write_part, *task) for task in islice(tasks, workers + 1 - len(running))}
                if not running:
                    return
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in ended)
        finally:
            stop.set()  # or parts that have begun would be waited for
            pool.shutdown(cancel_futures=True)


@dataclass
class Computed(Sequence[bytes]):
    """Results by picture number; files are mapped, and opened again in a process that this is sent to."""

    folder: Path
    images: int
    _open: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, number: int) -> bytes:  # type: ignore[override]
        """The result for a picture; empty: it could not be read."""
        if not 0 <= number < self.images:
            raise IndexError(f"picture {number} of {self.images}")
        part, row = divmod(number, PART)
        ends, content = self._rows(part)
        return content[ends[row] : ends[row + 1]].tobytes()

    def lengths(self) -> np.ndarray:
        """(images,) bytes of each result."""
        return np.concatenate([np.diff(self._rows(part)[0]) for part in range(-(-self.images // PART))])

    def _rows(self, part: int) -> tuple[np.ndarray, np.ndarray]:
        """Where rows begin and end, and their bytes."""
        if part not in self._open:
            self._open[part] = np.load(self.path(part), mmap_mode="r", allow_pickle=False)
        head = OFFSET.itemsize * (len(self.of_part(part)) + 1)
        return self._open[part][:head].view(OFFSET), self._open[part][head:]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def path(self, part: int) -> Path:
        """File of a part."""
        return self.folder / f"part-{part:06d}.npy"

    def of_part(self, part: int) -> range:
        """Numbers of a part's pictures."""
        return range(part * PART, min(self.images, (part + 1) * PART))

    def missing(self) -> list[int]:
        """Parts that are not there."""
        try:
            there = {entry.name for entry in os.scandir(self.folder)}
        except OSError:
            there = set()
        return [part for part in range(-(-self.images // PART)) if self.path(part).name not in there]

    def write(self, part: int, rows: Sequence[bytes]) -> None:
        """Write a part, whole or not at all."""
        ends = np.cumsum([0, *map(len, rows)], dtype=OFFSET)
        aside = self.folder / f".part-{part:06d}.{os.getpid()}.tmp"
        try:
            with open(aside, "wb") as file:
                np.save(file, np.frombuffer(ends.tobytes() + b"".join(rows), np.uint8), allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(self.path(part))
        except BaseException:
            aside.unlink(missing_ok=True)
            raise


def _begin(folder: Path, about: dict[str, Any]) -> None:
    """Make the folder, say in it what it holds, and clear what killed runs left."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "about.json").write_text(json.dumps(about, indent=1), "utf-8")
    for left in folder.glob(".part-*.tmp"):
        if time.time() - left.stat().st_mtime > STALE:
            left.unlink(missing_ok=True)


def _write_part(
    kept: Computed, part: int, pictures: Sequence[Picture], compute: Compute, max_pixels: int | None
) -> int:
    rows = []
    for picture in pictures:
        if _stop is not None and _stop.is_set():
            raise InterruptedError
        rows.append(_result(picture, compute, max_pixels))
    kept.write(part, rows)
    return part


def _result(picture: Picture, compute: Compute, max_pixels: int | None) -> bytes:
    try:
        image = read_image(picture, at_least=(compute.side, compute.side), max_pixels=max_pixels)
    except UnreadableImage:
        return b""
    image.thumbnail((compute.side, compute.side), Image.Resampling.BOX)
    return compute(image)


_stop: Event | None = None  # in a process that computes: set when it should not go on


def _begin_worker(stop: Event) -> None:
    """Signals are the parent's business, and this process ends when the parent does, however that ends."""
    global _stop
    _stop = stop
    for number in STOPPING:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (wait_for_end([parent.sentinel]), os._exit(1)), daemon=True).start()
