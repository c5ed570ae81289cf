"""Real photos for the testbeds, from Debian packages: ``python benchmarks/testbeds/backgrounds.py OUT``.

Wallpapers (one picture each, the largest) of mate-backgrounds, gnome-backgrounds, plasma-workspace-wallpapers and
lomiri-wallpapers-20.04; photos of opencv-doc; JPEG and WebP streams carved out of gcompris-qt-data's Qt archives.
Left out: photos of animals, flowers, food, vehicles and faces (they would be unlabelled objects of the testbeds'
classes), drawings, screens, and pictures of one thing on a white ground. What is missing is told and passed over.
"""

from __future__ import annotations

import fnmatch
import io
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

SHARE = Path("/usr/share")
LEAST, MOST = 200, 800  # pixels of the shorter side; larger pictures are shrunk
WHITE = 0.3  # share of near-white pixels above which a picture shows a thing on paper, not a place
ARCHIVES = ["categorization", "clickgame", "details", "explore_monuments", "explore_world_music"]
PHOTOS = [
    "aero1",
    "aloeL",
    "blox",
    "board",
    "box_in_scene",
    "building",
    "graf1",
    "home",
    "left01",
    "leuvenA",
    "pic1",
    "pic3",
    "rubberwhale1",
    "starry_night",
    "stuff",
]
WALLPAPERS = (
    ("backgrounds/mate/nature", "*.jpg", ["*Flower*", "Garden*", "LadyBird*", "TwoWings*"]),
    ("backgrounds", "*.jpg", ["Fossa*"]),
    ("backgrounds/gnome", "*-l.webp", []),
    ("wallpapers/*/contents/images", "*", ["*FlyingKonqui*"]),
)
STREAM = re.compile(rb"RIFF....WEBP|\xff\xd8\xff", re.S)


def carved(archive: Path) -> Iterator[tuple[str, Image.Image]]:
    """Pictures of a Qt resource archive: each stored as its length in four bytes, then the file as it is."""
    content = archive.read_bytes()
    for match in STREAM.finditer(content):
        start = match.start()
        (length,) = struct.unpack(">I", content[start - 4 : start])
        try:
            image = Image.open(io.BytesIO(content[start : start + length]))
            image.load()
        except Exception:  # not a stored picture: these bytes occur elsewhere too
            continue
        if image.mode == "RGB":  # with transparency it is a piece of a drawing
            yield f"{archive.stem}-{start:08d}", image


def wallpapers() -> Iterator[tuple[str, Image.Image]]:
    """The largest picture of each wallpaper."""
    for folders, pattern, left_out in WALLPAPERS:
        for folder in sorted(SHARE.glob(folders)):
            files = [
                path
                for path in folder.glob(pattern)
                if path.is_file() and not any(fnmatch.fnmatch(str(path), f"*/{name}") for name in left_out)
            ]
            if files and "contents" in folder.parts:  # one wallpaper in many sizes
                yield (
                    folder.parts[-3],
                    Image.open(max(files, key=lambda path: (path.stat().st_size, path.name))),
                )
            else:
                yield from ((path.stem, Image.open(path)) for path in sorted(files))


def photos() -> Iterator[tuple[str, Image.Image]]:
    folder = SHARE / "doc/opencv-doc/examples/data"
    for name in PHOTOS:
        yield from ((path.stem, Image.open(path)) for path in folder.glob(f"{name}.*"))


def main(out: Path) -> None:
    """Write the pictures to ``out`` as JPEG."""
    out.mkdir(parents=True, exist_ok=True)
    sources = {"wallpapers": wallpapers(), "opencv-doc": photos()}
    for name in ARCHIVES:
        archive = SHARE / f"gcompris-qt/rcc/{name}.rcc"
        sources[archive.name] = carved(archive) if archive.is_file() else iter(())
    for source, pictures in sources.items():
        count = 0
        for name, picture in pictures:
            image = picture.convert("RGB")
            if min(image.size) < LEAST or (np.asarray(image).min(axis=2) > 235).mean() > WHITE:
                continue
            scale = min(1.0, MOST / min(image.size))
            image = image.resize([round(scale * side) for side in image.size], Image.Resampling.LANCZOS)
            image.save(out / f"{name}.jpg", quality=95)
            count += 1
        print(f"{source}: {count} photos" + ("" if count else " (is its package installed?)"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
