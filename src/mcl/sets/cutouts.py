"""Sources of composed scenes: find cut-outs and photos, shrink them, drop duplicates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mcl.config.data import DataComposeSettings
from mcl.data.loading.decode import FORMATS, UnreadableImage, read_image
from mcl.errors import UserError
from mcl.sets.classes import choose_classes, find_classes, other_classes, walk_images
from mcl.sets.shrunk import ShrunkFile, Stored

LEAST_SIDE = 8  # pixels; smaller cut-outs show nothing
THUMBNAIL = 12  # pixels; pictures are compared at this size
SAME_PICTURE = 3.0  # mean difference of thumbnails in grey levels; re-saved and rescaled copies stay below 2
CACHED_CUTOUTS, CACHED_PHOTOS = (
    512,
    128,
)  # decoded pictures kept a process, of those the shrunk file has no room for


@dataclass(frozen=True, eq=False)
class Source:
    """A cut-out or a photo: a file that is read when needed, or a picture in memory or in the shrunk file.

    Attributes:
        name: what the JSON files call it (path relative to its folder).
        path: the file, or ``None``.
        picture: the picture in memory (RGBA for a cut-out, RGB for a photo), or ``None``.
        stored: its shrunk picture, of the size that the composer asks for, or ``None``.
    """

    name: str
    path: Path | None = None
    picture: Image.Image | None = None
    stored: Stored | None = None

    def cutout(self, side: int) -> Image.Image:
        """RGBA, cropped to what is visible, longer side at most ``side`` pixels."""
        return self._kept() or _cutout_cached(self.path, side)

    def photo(self, side: int) -> Image.Image:
        """RGB, shorter side at most ``side`` pixels."""
        return self._kept() or _photo_cached(self.path, side)

    def _kept(self) -> Image.Image | None:
        return self.stored.read() if self.stored else self.picture


@dataclass
class Sources:
    """Cut-outs by class and photos, of one split; the order of classes is the label."""

    cutouts: dict[str, list[Source]]
    photos: list[Source]


@dataclass
class Found:
    """All cut-outs to label, by class, those for unlabeled images only, and all photos."""

    cutouts: dict[str, list[Source]]
    extra: dict[str, list[Source]]
    photos: list[Source]


@dataclass
class Findings:
    """What was left out on the way and why: ``skipped`` are files, ``notes`` are lines for the user."""

    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def find_sources(
    settings: DataComposeSettings,
    sides: tuple[int, int],
    shrunk: ShrunkFile,
    run: Callable[..., Iterator[Any]],
    findings: Findings,
) -> Found:
    """Readable cut-outs and photos without duplicates.

    Args:
        settings: where to look, and for which classes.
        sides: of cut-outs and photos, as :func:`mcl.sets.compose.source_sides` gives them.
        shrunk: gets them at these sizes.
        run: a ``map``, maybe over worker processes.
        findings: gets what was left out.

    Raises:
        UserError: a folder is missing or empty, no class folder, no class left, no readable cut-out or photo.
    """
    everything = find_classes(
        settings.cutouts, settings.class_map, settings.class_depth, settings.follow_links
    )
    labelled = choose_classes(everything, settings.include, settings.exclude)
    others = other_classes(everything, labelled, settings.unlabeled_classes)
    photos = walk_images(settings.backgrounds, "--backgrounds", settings.follow_links)
    seen = _Thumbnails()

    def distinct(classes: dict[str, list[Path]], root: Path) -> dict[str, list[Source]]:
        read = partial(_cutout_at, side=sides[0])
        return {
            name: _distinct(_without_mirrors(paths, findings), root, read, seen, shrunk, run, findings)
            for name, paths in sorted(classes.items())
        }

    # Labelled ones first: of copies the labelled one is kept.
    kept, extra = distinct(labelled, settings.cutouts), distinct(others, settings.cutouts)
    if settings.unlabeled_cutouts:
        folder = settings.unlabeled_cutouts
        more = walk_images(folder, "--unlabeled_cutouts", settings.follow_links)
        extra |= distinct({str(folder): more}, folder)
    if not any(kept.values()):
        raise UserError(f"--cutouts {settings.cutouts}: no cut-out can be used; {_first_reason(findings)}")
    read = partial(_photo_at, side=sides[1])
    distinct_photos = _distinct(photos, settings.backgrounds, read, _Thumbnails(), shrunk, run, findings)
    if not distinct_photos:
        raise UserError(
            f"--backgrounds {settings.backgrounds}: no photo can be used; {_first_reason(findings)}"
        )
    return Found(kept, extra, distinct_photos)


def read_cutout(path: Path) -> Image.Image:
    """An RGBA cut-out, cropped to its visible part.

    Raises:
        UnreadableImage: no picture, no transparent pixel, nothing visible, or smaller than 8 pixels.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            rgba = image.convert("RGBA")
    except Image.UnidentifiedImageError:
        raise UnreadableImage("not an image that Pillow can read, or empty") from None
    except Exception as error:  # decoders raise anything
        raise UnreadableImage(" ".join(str(error).split()) or type(error).__name__) from None
    alpha = rgba.getchannel("A")
    if alpha.getextrema()[0] == 255:
        raise UnreadableImage("no transparent pixel, so not a cut-out")
    box = visible_box(rgba)
    if box is None or min(box[2] - box[0], box[3] - box[1]) < LEAST_SIDE:
        raise UnreadableImage(f"less than {LEAST_SIDE} pixels are visible")
    return rgba.crop(box)


def visible_box(rgba: Image.Image) -> tuple[int, int, int, int] | None:
    """Box (left, top, right, bottom) of the pixels that are more than a faint haze."""
    return rgba.getchannel("A").point(lambda alpha: 255 if alpha > 16 else 0).getbbox()


def _without_mirrors(paths: list[Path], findings: Findings) -> list[Path]:
    """Without ``x_mirror*.png`` where ``x.png`` is there too."""
    stems = {path.with_suffix("") for path in paths}
    kept = []
    for path in paths:
        original, mirror, _ = path.stem.partition("_mirror")
        if mirror and path.with_name(original) in stems:
            findings.skipped[str(path)] = f"mirror image of {original}"
        else:
            kept.append(path)
    return kept


class _Thumbnails:
    """Thumbnails of the pictures kept so far, to find copies (also mirrored, rescaled, saved anew)."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.values = np.zeros((64, THUMBNAIL * THUMBNAIL * 4), np.float32)

    def copy_of(self, name: str, thumbnail: bytes) -> str | None:
        """Name of the kept picture that this one copies; otherwise keeps it and returns ``None``."""
        values = np.frombuffer(thumbnail, np.uint8).reshape(THUMBNAIL, THUMBNAIL, 4).astype(np.float32)
        known = self.values[: len(self.names)]
        for side in (values, values[:, ::-1]):
            distance = np.abs(known - side.ravel()).mean(axis=1) if len(known) else np.empty(0)
            if len(distance) and distance.min() < SAME_PICTURE:
                return self.names[int(distance.argmin())]
        if len(self.names) == len(self.values):
            self.values = np.concatenate([self.values, np.zeros_like(self.values)])
        self.values[len(self.names)] = values.ravel()
        self.names.append(name)
        return None


@dataclass(frozen=True)
class _Prepared:
    """What a worker sends of a picture: pixels at the size that is needed, and a thumbnail."""

    mode: str
    size: tuple[int, int]
    pixels: bytes
    thumbnail: bytes


def _prepare(read: Callable[[Path], Image.Image], path: Path) -> _Prepared | str:
    """The picture, or why it cannot be used."""
    try:
        picture = read(path)
    except UnreadableImage as error:
        return str(error)
    # Premultiplied: colours that cannot be seen do not count.
    small = picture.convert("RGBA").convert("RGBa").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return _Prepared(picture.mode, picture.size, picture.tobytes(), small.tobytes())


def _distinct(
    paths: list[Path],
    root: Path,
    read: Callable[[Path], Image.Image],
    seen: _Thumbnails,
    shrunk: ShrunkFile,
    run: Callable[..., Iterator[Any]],
    findings: Findings,
) -> list[Source]:
    kept = []
    for path, prepared in zip(paths, run(partial(_prepare, read), paths), strict=True):
        name = path.relative_to(root).as_posix()
        if isinstance(prepared, str):
            findings.skipped[str(path)] = prepared
            continue
        original = seen.copy_of(name, prepared.thumbnail)
        if original is None:
            stored = shrunk.add(prepared.mode, prepared.size, prepared.pixels)
            kept.append(Source(name, path, stored=stored))
        else:
            findings.skipped[str(path)] = f"copy of {original}"
    return kept


def _first_reason(findings: Findings) -> str:
    if not findings.skipped:
        return "there is none"
    path, reason = next(reversed(findings.skipped.items()))
    return f"the last of {len(findings.skipped)} skipped: {path}: {reason}"


def _cutout_at(path: Path, side: int) -> Image.Image:
    rgba = read_cutout(path)
    rgba.thumbnail((side, side), Image.Resampling.LANCZOS)
    return rgba


def _photo_at(path: Path, side: int) -> Image.Image:
    photo = read_image(path, at_least=(side, side))
    scale = side / min(photo.size)
    return (
        photo
        if scale >= 1
        else photo.resize([max(1, round(s * scale)) for s in photo.size], Image.Resampling.LANCZOS)
    )


_cutout_cached = lru_cache(maxsize=CACHED_CUTOUTS)(_cutout_at)
_photo_cached = lru_cache(maxsize=CACHED_PHOTOS)(_photo_at)
