"""Compose pictures: cut-outs on crops of photos, with masks that know what covers what.

Pure: an image depends only on the sources, the settings and the random generator handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageChops, ImageEnhance, ImageFilter

from mcl.config.data import SceneSettings
from mcl.sets.cutouts import Source, Sources, visible_box

TRIES = 15  # places tried for an object before it is left out
PLACES = 3  # of them with the same cut-out
UPSCALE = 2.0  # cut-outs are enlarged by at most this, or they turn to mush
MARGIN = 1.4  # cut-outs are turned at this multiple of their final size
LEAST_SIDE = 4  # pixels
# Of a patch's (width, height), its left and top in the picture; may be negative.
Position = Callable[[tuple[int, int], np.random.Generator], tuple[int, int]]


INSTANCES = 20  # random stream of their order, apart from those of generate.py and demo.py


def source_sides(settings: SceneSettings) -> tuple[int, int]:
    """Pixels of a cut-out's longer and of a photo's shorter side that pictures are made from."""
    largest = max(settings.pixels(settings.max_size), settings.pixels(settings.centred_max_size))
    # Some room for turning and for photos to be cropped from; more only costs memory.
    size = settings.image_size
    return round(1.5 * largest), min(3 * size, max(size, 768))


@dataclass
class Placed:
    """An object in a picture.

    Attributes:
        label: index of its class.
        source: name of its cut-out.
        area: its pixels if nothing covered it and it lay fully inside.
        visible: (H, W) bool, its pixels that can be seen.
    """

    label: int
    source: str
    area: int
    visible: np.ndarray


@dataclass
class Picture:
    """A composed picture: RGB image, name of its background photo, objects from bottom to top."""

    image: Image.Image
    background: str
    objects: list[Placed] = field(default_factory=list)


class Composer:
    """Draws scenes and object-centred pictures from the sources of one split.

    Args:
        sources: cut-outs by class (at least one class, each with at least one) and photos.
        settings: what pictures look like.
    """

    def __init__(self, sources: Sources, settings: SceneSettings) -> None:
        self.classes: list[Sequence[Source]] = list(sources.cutouts.values())
        self.photos = sources.photos
        self.settings = settings
        self.size = settings.image_size
        self._sizes = (settings.pixels(settings.min_size), settings.pixels(settings.max_size))
        self._centred_sizes = (
            settings.pixels(settings.centred_min_size),
            settings.pixels(settings.centred_max_size),
        )
        self._cutout_side, self._photo_side = source_sides(settings)
        instances = [(label, source) for label, sources in enumerate(self.classes) for source in sources]
        # Shuffled, so that fewer pictures than instances show some of every class.
        order = np.random.default_rng([settings.seed, INSTANCES]).permutation(len(instances))
        self._instances = [instances[i] for i in order]

    def scene(self, rng: np.random.Generator) -> Picture:
        """A scene of ``min_objects`` to ``max_objects`` objects anywhere; classes are equally likely."""
        picture = self._background(rng)
        for _ in range(rng.integers(self.settings.min_objects, self.settings.max_objects + 1)):
            self._place(picture, rng, self._sizes, self._anywhere)
        return picture

    def centred(self, rng: np.random.Generator) -> Picture:
        """One object around the middle."""
        picture = self._background(rng)
        self._place(picture, rng, self._centred_sizes, self._middle)
        return picture

    def instance(self, rng: np.random.Generator, index: int) -> Picture:
        """The ``index``-th cut-out of all classes (shuffled) around the middle, whatever can be seen of it."""
        picture = self._background(rng)
        self._place(picture, rng, self._centred_sizes, self._middle, self._instances[index])
        return picture

    def _background(self, rng: np.random.Generator) -> Picture:
        """A square crop between ``image_size`` and the whole height of a photo, at ``image_size``."""
        source = self.photos[rng.integers(len(self.photos))]
        photo = source.photo(self._photo_side)
        shorter = min(photo.size)
        side = rng.uniform(min(self.size, shorter), shorter)
        left, top = (rng.uniform(0, length - side) for length in photo.size)
        box = (left, top, left + side, top + side)
        crop = photo.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box, reducing_gap=2)
        return Picture(self._mirror(self._brighten(crop, rng), rng), source.name)

    def _place(
        self,
        picture: Picture,
        rng: np.random.Generator,
        sizes: tuple[float, float],
        position: Position,
        given: tuple[int, Source] | None = None,
    ) -> None:
        """Paste one object where it is seen and covers no other too much; none if there is no such place.

        ``given`` is the object's label and cut-out: then it is this one, wherever.
        """
        label = given[0] if given else int(rng.integers(len(self.classes)))
        for attempt in range(TRIES):
            if attempt % PLACES == 0:
                source = given[1] if given else self.classes[label][rng.integers(len(self.classes[label]))]
                patch = self._vary(source.cutout(self._cutout_side), rng, rng.uniform(*sizes))
            left, top = position(patch.size, rng)
            mask, area = self._mask(patch, left, top)
            last = attempt == TRIES - 1
            # The last try takes a place of little contrast rather than none.
            contrasted = last or self._contrast(patch, picture.image, mask) >= self.settings.min_contrast
            if contrasted and ((last and given) or self._leaves_visible(picture, mask, area)):
                picture.image.paste(patch, (left, top), patch)
                for below in picture.objects:
                    below.visible &= ~mask
                picture.objects.append(Placed(label, source.name, area, mask))
                return

    def _vary(self, cutout: Image.Image, rng: np.random.Generator, longer: float) -> Image.Image:
        """Mirror, turn, scale to ``longer`` pixels, brighten, soften the edge; alpha is straight."""
        angle = rng.uniform(-1, 1) * self.settings.rotation
        patch = self._mirror(cutout, rng)
        # Turning costs most and is done before the last, fine scaling: on as few pixels as that allows.
        before = MARGIN * longer / max(patch.size)
        if before < 1:
            size = [max(LEAST_SIDE, round(before * side)) for side in patch.size]
            patch = patch.resize(size, Image.Resampling.BILINEAR, reducing_gap=2)
        patch = patch.rotate(angle, Image.Resampling.BILINEAR, expand=True)
        patch = patch.crop(visible_box(patch) or (0, 0, *patch.size))
        scale = min(longer / max(patch.size), UPSCALE)
        size = [max(LEAST_SIDE, round(scale * side)) for side in patch.size]
        patch = self._brighten(patch.resize(size, Image.Resampling.BICUBIC), rng)
        softness = rng.uniform(0, self.settings.edge_softness)
        alpha = patch.getchannel("A")
        # Only inwards: outside the edge there is no colour to fade.
        patch.putalpha(ImageChops.darker(alpha, alpha.filter(ImageFilter.GaussianBlur(softness))))
        return patch

    def _anywhere(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
        """Left, top; up to ``overhang`` of the object outside. Too large ones cover the whole picture."""
        return tuple(
            self._between(
                -self.settings.overhang * side, self.size - (1 - self.settings.overhang) * side, rng
            )
            for side in size
        )

    def _middle(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
        return tuple(round((self.size - side) / 2 + rng.uniform(-0.08, 0.08) * self.size) for side in size)

    @staticmethod
    def _between(low: float, high: float, rng: np.random.Generator) -> int:
        return round(rng.uniform(min(low, high), max(low, high)))

    def _mask(self, patch: Image.Image, left: int, top: int) -> tuple[np.ndarray, int]:
        """(H, W) bool of the patch's opaque pixels inside the picture, and their number in- and outside."""
        opaque = np.asarray(patch.getchannel("A")) >= 128
        mask = np.zeros((self.size, self.size), bool)
        x, y = max(left, 0), max(top, 0)
        inside = opaque[y - top : self.size - top, x - left : self.size - left]
        mask[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
        return mask, int(opaque.sum())

    def _leaves_visible(self, picture: Picture, mask: np.ndarray, area: int) -> bool:
        """Whether the new object and all those it would cover keep their least visible area."""
        views = [(below.visible & ~mask, below.area) for below in picture.objects]
        return all(
            visible.sum() >= max(self.settings.min_visible * full, self.settings.min_visible_pixels)
            for visible, full in [*views, (mask, area)]
        )

    def _contrast(self, patch: Image.Image, image: Image.Image, mask: np.ndarray) -> float:
        """RMS distance (0-255) of the mean colours of the object and of what it would cover."""
        if self.settings.min_contrast == 0 or not mask[::2, ::2].any():
            return 255.0
        rgba = np.asarray(patch)[::2, ::2]  # every fourth pixel is enough for a mean
        above = rgba[rgba[..., 3] >= 128, :3].mean(axis=0)
        below = np.asarray(image)[::2, ::2][mask[::2, ::2]].mean(axis=0)
        return float(np.sqrt(np.mean((above - below) ** 2)))

    def _mirror(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        # Drawn in any case, so that switching flips off leaves everything else as it was.
        mirrored = rng.random() < 0.5
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored and self.settings.flip else image

    def _brighten(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        factor = 1 + rng.uniform(-1, 1) * self.settings.brightness
        return ImageEnhance.Brightness(image).enhance(factor)
