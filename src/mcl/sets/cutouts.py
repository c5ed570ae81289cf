"""Sources of composed scenes: find cut-outs and photos, drop duplicates, split into train and test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from mcl.data.loading.decode import FORMATS, UnreadableImage, read_image
from mcl.errors import UserError
from mcl.sets.classes import choose_classes, walk_images

LEAST_PER_SPLIT = 2  # cut-outs of a class in train and in test
LEAST_SIDE = 8  # pixels; smaller cut-outs show nothing
THUMBNAIL = 12  # pixels; pictures are compared at this size
SAME_PICTURE = 3.0  # mean difference of thumbnails in grey levels; re-saved and rescaled copies stay below 2
CACHED_CUTOUTS, CACHED_PHOTOS = 512, 128  # decoded pictures kept a process


@dataclass(frozen=True, eq=False)
class Source:
    """A cut-out or a photo: a file that is read when needed, or a picture in memory.

    Attributes:
        name: what the JSON files call it (path relative to its folder).
        path: the file, or ``None``.
        picture: the picture in memory (RGBA for a cut-out, RGB for a photo), or ``None``.
    """

    name: str
    path: Path | None = None
    picture: Image.Image | None = None

    def cutout(self, side: int) -> Image.Image:
        """RGBA, cropped to what is visible, longer side at most ``side`` pixels."""
        return self.picture if self.path is None else _cutout_at(self.path, side)

    def photo(self, side: int) -> Image.Image:
        """RGB, shorter side at most ``side`` pixels."""
        return self.picture if self.path is None else _photo_at(self.path, side)


@dataclass
class Sources:
    """Cut-outs by class and photos, of one split or before splitting; the order of classes is the label."""

    cutouts: dict[str, list[Source]]
    photos: list[Source]


@dataclass
class Findings:
    """What was left out on the way and why: ``skipped`` are files, ``notes`` are lines for the user."""

    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def find_sources(
    cutouts: Path,
    backgrounds: Path,
    class_map: str | None,
    include: Sequence[str],
    exclude: Sequence[str],
    findings: Findings,
) -> Sources:
    """Readable cut-outs and photos without duplicates.

    Raises:
        UserError: a folder is missing or empty, no class folder, no class left, no readable cut-out or photo.
    """
    classes = choose_classes(cutouts, class_map, include, exclude)
    photos = walk_images(backgrounds, "--backgrounds")
    seen = _Thumbnails()
    kept = {
        name: _distinct(_without_mirrors(paths, findings), cutouts, read_cutout, seen, findings)
        for name, paths in sorted(classes.items())
    }
    if not any(kept.values()):
        raise UserError(f"--cutouts {cutouts}: no cut-out can be used; {_first_reason(findings)}")
    distinct_photos = _distinct(photos, backgrounds, read_image, _Thumbnails(), findings)
    if not distinct_photos:
        raise UserError(f"--backgrounds {backgrounds}: no photo can be used; {_first_reason(findings)}")
    return Sources(kept, distinct_photos)


def split_sources(
    sources: Sources, test_fraction: float, rng: np.random.Generator, findings: Findings
) -> tuple[Sources, Sources]:
    """Disjoint train and test sources; classes too small for both are dropped with a note.

    Raises:
        UserError: no class is large enough, or fewer than two photos.
    """
    if len(sources.photos) < 2:
        raise UserError(
            "--backgrounds: one distinct photo only; train and test need different ones, so at least 2"
        )
    train, test = Sources({}, []), Sources({}, [])
    for name, cutouts in sources.cutouts.items():
        if len(cutouts) < 2 * LEAST_PER_SPLIT:
            findings.notes.append(
                f"class {name!r} dropped: {len(cutouts)} distinct cut-outs, but train and test need "
                f"{LEAST_PER_SPLIT} different ones each"
            )
            continue
        train.cutouts[name], test.cutouts[name] = _split(cutouts, test_fraction, LEAST_PER_SPLIT, rng)
    if not train.cutouts:
        raise UserError(f"--cutouts: no class is left; {findings.notes[-1]}")
    train.photos, test.photos = _split(sources.photos, test_fraction, 1, rng)
    return train, test


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

    def copy_of(self, name: str, picture: Image.Image) -> str | None:
        """Name of the kept picture that this one copies; otherwise keeps it and returns ``None``."""
        # Premultiplied: colours that cannot be seen do not count.
        small = picture.convert("RGBA").convert("RGBa").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
        values = np.frombuffer(small.tobytes(), np.uint8).reshape(THUMBNAIL, THUMBNAIL, 4).astype(np.float32)
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


def _distinct(
    paths: list[Path], root: Path, read: Callable[[Path], Image.Image], seen: _Thumbnails, findings: Findings
) -> list[Source]:
    kept = []
    for path in paths:
        name = path.relative_to(root).as_posix()
        try:
            original = seen.copy_of(name, read(path))
        except UnreadableImage as error:
            findings.skipped[str(path)] = str(error)
            continue
        if original is None:
            kept.append(Source(name, path))
        else:
            findings.skipped[str(path)] = f"copy of {original}"
    return kept


def _split(
    items: list[Source], fraction: float, least: int, rng: np.random.Generator
) -> tuple[list[Source], list[Source]]:
    tested = int(np.clip(round(fraction * len(items)), least, len(items) - least))
    order = rng.permutation(len(items))
    return [items[i] for i in sorted(order[tested:])], [items[i] for i in sorted(order[:tested])]


def _first_reason(findings: Findings) -> str:
    if not findings.skipped:
        return "there is none"
    path, reason = next(reversed(findings.skipped.items()))
    return f"the last of {len(findings.skipped)} skipped: {path}: {reason}"


@lru_cache(maxsize=CACHED_CUTOUTS)
def _cutout_at(path: Path, side: int) -> Image.Image:
    rgba = read_cutout(path)
    rgba.thumbnail((side, side), Image.Resampling.LANCZOS)
    return rgba


@lru_cache(maxsize=CACHED_PHOTOS)
def _photo_at(path: Path, side: int) -> Image.Image:
    photo = read_image(path, at_least=(side, side))
    scale = side / min(photo.size)
    return (
        photo
        if scale >= 1
        else photo.resize([max(1, round(s * scale)) for s in photo.size], Image.Resampling.LANCZOS)
    )
