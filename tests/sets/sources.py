"""Cut-outs, photos and settings of tests that compose."""

from PIL import Image, ImageDraw

from mcl.config.base import from_values
from mcl.config.data import DataComposeSettings

SMALL = {
    "unlabeled_objects": 3,
    "unlabeled_scenes": 4,
    "train_scenes": 16,
    "test_scenes": 5,
    "image_size": 64,
    "min_size": 16,
    "max_size": 40,
    "min_visible_pixels": 30,
}


def draw_cutout(path, colour, sides=0, size=60):
    image = Image.new("RGBA", (size, size))
    draw = ImageDraw.Draw(image)
    if sides:
        draw.regular_polygon((size / 2, size / 2, size / 2 - 2), sides, fill=colour)
    else:
        draw.ellipse((2, 8, size - 2, size - 8), fill=colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def settings(folders, out, **changes):
    values = SMALL | {"cutouts": folders / "cutouts", "backgrounds": folders / "photos", "out": out}
    return from_values(DataComposeSettings, values | changes)
