"""``mcl predict``: what a fine-tuned detector finds on images or in a video."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as F

from mcl.config.base import dump
from mcl.config.predict import PredictSettings
from mcl.data.labels.coco_write import coco, image_record, write_json
from mcl.data.loading.decode import UnreadableImage, read_image
from mcl.data.loading.loader import plain_errors
from mcl.data.loading.workers import prepare_worker
from mcl.data.sources.find import find_images
from mcl.data.sources.pictures import Picture, has_picture_suffix
from mcl.data.sources.video import Video, VideoFile, is_video
from mcl.detect.drawn import annotations_of, drawn
from mcl.detect.loaded import Detections, LoadedDetector, load_detector
from mcl.engine.logging import Display, console
from mcl.engine.run_folder import CONFIG, RunFolder
from mcl.errors import UserError, about, printable
from mcl.run.claim import claim_folder
from mcl.run.guard import guarded

FILE_NAME, PICTURES = "predictions.json", "pictures"
SHOWN_UNREADABLE = 5
Frame = tuple[str, Image.Image | str]  # name of an image and the image, or why it cannot be read


@guarded
def predict(settings: PredictSettings) -> dict[str, Any]:
    """Find objects on images or in a video.

    Writes ``predictions.json`` (a COCO data set whose annotations have a ``score``), ``summary.json``, and a picture of
    every image to ``pictures/`` (a video: one video beside it) to ``settings.out``.

    Returns:
        What ``summary.json`` holds, and a ``message``.

    Raises:
        UserError: no detector or no image there, or no image that can be read.
    """
    started = time.perf_counter()
    detector = load_detector(
        settings.model, settings.score_threshold, settings.device, settings.batch, settings.threads
    )
    source = _source(settings)
    folder = claim_folder(settings, "predict")
    folder.write_text(CONFIG, dump(settings))
    found = _Found(detector, folder.path, settings.pictures, source.rate)
    try:
        with Display("predict", source.count, 0) as display:
            for batch in _batches(source.frames(), settings.batch):
                found.add(batch)
                display.advance(found.images + len(found.unreadable))
    finally:
        found.close()
    if not found.records:
        name, reason = found.unreadable[0] if found.unreadable else (settings.images, "no frame in it")
        raise UserError(f"--images {settings.images}: nothing can be read; the first: {printable(name)}: {reason}")
    return _conclude(settings, folder, found, time.perf_counter() - started)


def _conclude(settings: PredictSettings, folder: RunFolder, found: _Found, seconds: float) -> dict[str, Any]:
    given = {"model": str(settings.model), "score_threshold": settings.score_threshold}
    write_json(folder.path / FILE_NAME, coco(found.records, found.detector.names, "mcl predict", given))
    for name, reason in found.unreadable[:SHOWN_UNREADABLE]:
        console.print(f"not read: {printable(name)}: {reason}", markup=False)
    summary = {
        "model": str(settings.model), "images": found.images, "detections": sum(found.classes.values()),
        "classes": dict(found.classes.most_common()), "seconds": round(seconds, 1),
        "unreadable": [{"file": printable(name), "reason": reason} for name, reason in found.unreadable],
    }  # fmt: skip
    folder.write_json("summary.json", summary)
    skipped = f", {len(found.unreadable)} could not be read" if found.unreadable else ""
    message = f"{summary['detections']:,} objects on {found.images:,} images{skipped}; {folder.path / FILE_NAME}"
    return {**summary, "message": message}


@dataclass
class _Found:
    """What was found so far."""

    detector: LoadedDetector
    folder: Path
    pictures: bool
    rate: float | None  # frames a second of a video; None: single images
    records: list[dict[str, Any]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    classes: Counter[str] = field(default_factory=Counter)
    names: set[str] = field(default_factory=set)
    video: VideoFile | None = None

    @property
    def images(self) -> int:
        """That were read."""
        return len(self.records)

    def add(self, batch: Sequence[Frame]) -> None:
        """Find, note and draw."""
        readable = [(name, image) for name, image in batch if not isinstance(image, str)]
        self.unreadable += [(name, image) for name, image in batch if isinstance(image, str)]
        each = self.detector.each([image for _, image in readable])
        for (name, image), detections in zip(readable, each, strict=True):
            self.records.append(image_record(name, image.size, annotations_of(detections)))
            self.classes.update(detections.names)
            if self.pictures:
                self._draw(name, image, detections)

    def close(self) -> None:
        """Complete what is being written."""
        if self.video:
            self.video.close()

    def _draw(self, name: str, image: Image.Image, detections: Detections) -> None:
        picture = drawn(image, detections)
        if self.rate is None:
            target = self.folder / PICTURES / self._file_for(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            picture.save(target, quality=92)
            return
        even = (picture.width // 2 * 2, picture.height // 2 * 2)  # codecs halve the colours' sides
        if self.video is None:
            self.video = VideoFile(self.folder / f"{PICTURES}.mp4", self.rate, even)
        self.video.add(np.asarray(picture.crop((0, 0, *even))))

    def _file_for(self, name: str) -> str:
        """``birds/1.png -> birds/1.jpg``; the full name stays where two would be the same."""
        parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", "..", ".")]
        plain = PurePosixPath(*parts)
        target = str(plain.with_suffix(".jpg"))
        if target.lower() in self.names:
            target = f"{plain}.jpg"
        self.names.add(target.lower())
        return target


@dataclass(frozen=True)
class _Source:
    """Where images come from: their number (0: not known), how to read them, and the rate of a video."""

    count: int
    frames: Callable[[], Iterator[Frame]]
    rate: float | None = None


def _source(settings: PredictSettings) -> _Source:
    path = Path(settings.images)
    with about("--images"):
        if is_video(path):
            video = Video(path)
            named = ((f"{path.name}#{i:06d}", Image.fromarray(frame)) for i, frame in enumerate(video))
            return _Source(video.frames, lambda: named, video.rate)
        if path.is_file() and has_picture_suffix(path.name):
            pictures: Sequence[Picture] = [path]
        else:
            pictures = find_images(settings.images, say=lambda line: console.print(line, markup=False))
    base = path if path.is_dir() else path.parent
    return _Source(len(pictures), lambda: _decoded(pictures, base, settings))


def _decoded(pictures: Sequence[Picture], base: Path, settings: PredictSettings) -> Iterator[Frame]:
    loader = DataLoader(
        _Decoded(pictures, settings.max_pixels), batch_size=None, num_workers=settings.workers, worker_init_fn=prepare_worker
    )
    for picture, pixels in zip(pictures, plain_errors(loader), strict=True):
        name = os.path.relpath(picture, base) if isinstance(picture, Path) else str(picture)
        yield name.replace(os.sep, "/"), pixels if isinstance(pixels, str) else F.to_pil_image(pixels)


class _Decoded(Dataset):
    """uint8 (3, H, W), or why a picture cannot be read."""

    def __init__(self, pictures: Sequence[Picture], max_pixels: int) -> None:
        self.pictures, self.max_pixels = pictures, max_pixels

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor | str:
        try:
            return F.pil_to_tensor(read_image(self.pictures[index], max_pixels=self.max_pixels))
        except UnreadableImage as error:
            return str(error)


def _batches(frames: Iterator[Frame], size: int) -> Iterator[list[Frame]]:
    while batch := list(islice(frames, size)):
        yield batch
