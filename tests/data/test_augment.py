"""Our operations give torchvision's pixels, and reading at reduced size changes tiles little."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from images import picture
from levels import view_maker
from mcl.config.pretrain import ViewSettings
from mcl.data.loading.augment import _JITTER, Draw, Numbers, apply, draw
from mcl.data.loading.decode import read_image, read_reduced

SIDE = 48
PLAIN = {"box": (0, 0, SIDE, SIDE), "flip": False, "jitter": (), "gray": False, "blur": None, "solarize": False}


def tile(image: Image.Image, **changes) -> torch.Tensor:
    return apply(Draw(**{**PLAIN, **changes}), {1: image}, image.size, SIDE, 128)


@pytest.mark.parametrize("name", list(_JITTER))
@pytest.mark.parametrize("strength", [-0.4, -0.1, 0.0, 0.23, 0.4])
def test_jitter_is_torchvisions(name, strength):
    image, factor = picture(3, SIDE, SIDE), strength if name == "hue" else 1 + strength
    expected = getattr(F, f"adjust_{name}")(image, factor)
    assert torch.equal(tile(image, jitter=((name, factor),)), F.pil_to_tensor(expected))


def test_flip_gray_and_solarize_are_torchvisions():
    image = picture(4, SIDE, SIDE)
    assert torch.equal(tile(image, flip=True), F.pil_to_tensor(F.horizontal_flip(image)))
    assert torch.equal(tile(image, gray=True), F.pil_to_tensor(F.rgb_to_grayscale(image, 3)))
    assert torch.equal(tile(image, solarize=True), F.pil_to_tensor(F.solarize(image, 128)))


def test_a_crop_is_torchvisions_but_for_its_border():
    image = picture(5, 120, 90)
    ours = tile(image, box=(10, 5, 106, 77)).float()
    theirs = F.pil_to_tensor(F.resized_crop(image, 5, 10, 72, 96, [SIDE, SIDE])).float()
    assert (ours - theirs)[:, 1:-1, 1:-1].abs().max() <= 1


def test_crops_have_the_area_and_ratio_asked_for_and_lie_inside():
    settings, transform = ViewSettings(), v2.RandomResizedCrop(224, (0.2, 1.0))
    torch.manual_seed(0)
    draws = [
        draw(Numbers(torch.Generator().manual_seed(i)), settings, 0, (500, 375), (0.1, 2.0), (0.2, 1.0)) for i in range(400)
    ]
    boxes = np.array([d.box for d in draws], dtype=float)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    share = width * height / (500 * 375)
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 500 and boxes[:, 3].max() <= 375
    assert share.min() > 0.19 and share.max() <= 1
    assert (width / height).min() > 0.74 and (width / height).max() < 1.35
    theirs = [transform.make_params([Image.new("RGB", (500, 375))]) for _ in range(400)]
    assert abs(share.mean() - np.mean([p["width"] * p["height"] for p in theirs]) / (500 * 375)) < 0.04
    assert 0.75 < np.mean([bool(d.jitter) for d in draws]) < 0.85
    assert len({d.jitter[0][0] for d in draws if d.jitter}) == 4


def test_extreme_pictures_get_the_central_crop():
    drawn = draw(Numbers(torch.Generator().manual_seed(0)), ViewSettings(), 0, (400, 20), (0, 0), (1, 1))
    assert drawn.box == (186, 0, 213, 20) or drawn.box == (187, 0, 214, 20)


@pytest.mark.parametrize("size", [(500, 375), (1600, 1200), (90, 700)])
def test_reading_at_reduced_size_changes_tiles_little(tmp_path, size):
    smooth = picture(6, size[0] // 4, size[1] // 4).resize(size, Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "x.jpg", quality=95)
    still = ViewSettings(blur=(0, 0), jitter=0, gray=0, solarize=(0, 0))
    maker = view_maker(still, (1, 2, 4), 64, 0)
    for index in range(4):
        reduced = maker.read(tmp_path / "x.jpg", 0, index)["views"]
        for key, whole in maker(read_image(tmp_path / "x.jpg"), 0, index).items():
            assert (reduced[key].float() - whole.float()).abs().mean() < 2.5, key


def test_never_fewer_pixels_than_the_tile(tmp_path):
    picture(7, 1000, 750).save(tmp_path / "x.jpg")
    maker, factors = view_maker(ViewSettings(), (1, 2), 64, 0), set()
    for index in range(12):
        drawn = maker.draw((1000, 750), 0, index)
        image, full = read_reduced(tmp_path / "x.jpg", lambda size, d=drawn: maker.enough_pixels(d, size))
        factors.add(full[0] // image.width)
        for (_, scale), d in drawn.items():
            assert min(d.box[2] - d.box[0], d.box[3] - d.box[1]) * image.width / full[0] >= 64 // scale - 0.5
    assert factors >= {4, 8}


def test_sideways_photos_are_measured_upright(tmp_path):
    image = picture(8, 640, 480)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "x.jpg", exif=exif)
    asked = []
    read, full = read_reduced(tmp_path / "x.jpg", lambda size: asked.append(size) or (240, 320))
    assert asked == [(480, 640)] and full == (480, 640) and read.size == (240, 320)
