"""The embedded demo set: shapes with photo texture on photos, all from scikit-image's wheel."""

from __future__ import annotations

from importlib import util
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from mcl.config.data import DataDemoSettings
from mcl.data.loading.decode import UnreadableImage, read_image
from mcl.errors import UserError
from mcl.sets.cutouts import Source, Sources
from mcl.sets.silhouettes import SILHOUETTES, silhouette

# Textures and backgrounds of a split come from its photos only. Left out: drawings, text, near duplicates,
# and photos full of shapes that are classes here (coins).
PHOTOS = {
    "train": (
        "astronaut.png",
        "brick.png",
        "camera.png",
        "coffee.png",
        "grass.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "moon.png",
        "rocket.jpg",
    ),
    "test": ("cell.png", "chelsea.png", "gravel.png", "motorcycle_left.png", "retina.jpg"),
}
CODES = {"train": 10, "test": 11}  # random streams, apart from those of generate.py
CUTOUT_SIDE = 144  # pixels; about the largest object
LEAST_TEXTURE = 14.0  # standard deviation of a texture in grey levels; less looks flat
TEXTURE_TRIES = 10


def demo_sources(settings: DataDemoSettings) -> tuple[Sources, Sources]:
    """Train and test sources, made in memory from disjoint photos.

    Raises:
        UserError: scikit-image is not installed, or comes without its photos.
    """
    folder = _photo_folder()
    return tuple(_sources(split, _read(folder, names), settings) for split, names in PHOTOS.items())


def _photo_folder() -> Path:
    # find_spec: importing scikit-image takes a second, and only its files are wanted.
    spec = util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("mcl data demo needs scikit-image's photos: pip install 'mcl[demo]'")
    return Path(spec.submodule_search_locations[0], "data")


def _read(folder: Path, names: tuple[str, ...]) -> list[Source]:
    try:
        photos = [(name, read_image(folder / name)) for name in names]
    except UnreadableImage as error:
        raise UserError(
            f"{folder}: a photo of scikit-image cannot be read ({error}); "
            "pip install --force-reinstall scikit-image"
        ) from None
    return [Source(name, picture=_prepared(name, photo)) for name, photo in photos]


def _prepared(name: str, photo: Image.Image) -> Image.Image:
    if name == "retina.jpg":  # a disk on black: keep its inside
        width, height = photo.size
        photo = photo.crop((int(0.18 * width), int(0.18 * height), int(0.82 * width), int(0.82 * height)))
    scale = 400 / min(photo.size)
    return (
        photo
        if scale >= 1
        else photo.resize([round(scale * side) for side in photo.size], Image.Resampling.LANCZOS)
    )


def _sources(split: str, photos: list[Source], settings: DataDemoSettings) -> Sources:
    count = settings.cutouts_per_class if split == "train" else max(2, settings.cutouts_per_class // 3)
    names = list(SILHOUETTES)[: settings.classes]
    cutouts = {
        name: [
            _cutout(
                name,
                index,
                photos,
                settings,
                np.random.default_rng([settings.seed, CODES[split], label, index]),
            )
            for index in range(count)
        ]
        for label, name in enumerate(names)
    }
    return Sources(cutouts, photos)


def _cutout(
    name: str, index: int, photos: list[Source], settings: DataDemoSettings, rng: np.random.Generator
) -> Source:
    mask = silhouette(name, CUTOUT_SIDE, settings.deform, rng)
    photo = photos[rng.integers(len(photos))]
    texture = _texture(photo.picture, rng)  # (H, W, 3) in 0 to 1
    flat = rng.uniform(0.1, 1.0, 3).astype(np.float32)
    tint = rng.uniform(0.6, 1.0, 3).astype(np.float32)  # also keeps grey photos from making grey objects only
    colour = settings.texture_blend * texture * tint + (1 - settings.texture_blend) * flat
    # Blurred, a mask is one half at its edge and 1 deep inside.
    depth = np.asarray(mask.filter(ImageFilter.GaussianBlur(CUTOUT_SIDE / 18)), np.float32) / 255
    colour *= (1 - settings.shading * np.clip(2 - 2 * depth, 0, 1))[..., None]
    picture = Image.fromarray((colour * 255).clip(0, 255).astype(np.uint8))
    picture.putalpha(mask)
    return Source(f"{name}-{index:03d} ({photo.name})", picture=picture.crop(mask.getbbox()))


def _texture(photo: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """A mirrored or turned square crop that is not flat, unless the photo has nothing else."""
    for _ in range(TEXTURE_TRIES):
        side = rng.uniform(0.2, 0.6) * min(photo.size)
        left, top = (rng.uniform(0, length - side) for length in photo.size)
        crop = photo.resize(
            (CUTOUT_SIDE,) * 2, Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
        )
        texture = np.rot90(np.asarray(crop), rng.integers(4))
        if texture.mean(axis=2).std() >= LEAST_TEXTURE:
            break
    return texture.astype(np.float32) / 255
