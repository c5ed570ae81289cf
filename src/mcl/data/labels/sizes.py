"""Whether images have the sizes that their labels say, from their headers: seconds for what costs a training otherwise."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from mcl.data.labels.coco_json import Scene
from mcl.errors import UserError, printable

ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)  # EXIF: stored turned by 90 degrees
THREADS = 8  # headers are waited for, not computed


def require_sizes(scenes: Sequence[Scene]) -> None:
    """Compare width and height of labels with those of the files, in either orientation that EXIF allows.

    What cannot be opened is not judged here: decoding says what is wrong with it.

    Raises:
        UserError: how many differ, and the first of them.
    """
    if wrong := wrong_sizes(scenes):
        count = f"{len(wrong):,} of {len(scenes):,} images have another size than annotated, the first: " if len(wrong) > 1 else ""
        raise UserError(f"{count}{wrong[0]}")


def wrong_sizes(scenes: Sequence[Scene]) -> list[str]:
    """A line for each image whose file has another size than its labels say."""
    with warnings.catch_warnings(), ThreadPoolExecutor(THREADS) as threads:
        warnings.simplefilter("ignore")  # of Pillow, about large pictures: their labels are looked at elsewhere
        found = list(threads.map(_sizes_of, scenes, chunksize=64))
    return [
        f"{printable(str(scene.path))}: the image is {' x '.join(map(str, sizes[-1]))} pixels, "
        f"its annotation (image {scene.id}) says {scene.width} x {scene.height}"
        for scene, sizes in zip(scenes, found, strict=True)
        if sizes and (scene.width, scene.height) not in sizes
    ]


def _sizes_of(scene: Scene) -> list[tuple[int, int]]:
    """(width, height) as stored, and as it is looked at; nothing if that cannot be told."""
    try:
        with Image.open(scene.path) as image:
            turned = image.getexif().get(ORIENTATION, 1) in SIDEWAYS
            return [image.size, image.size[::-1]] if turned else [image.size]
    except Exception:  # decoders raise anything
        return []
