"""Any picture a user may have becomes 8-bit RGB, or one reason why not."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from images import picture
from mcl.data.loading.decode import UnreadableImage, read_image, read_reduced


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("RGB", "jpg"), ("CMYK", "jpg"), ("L", "jpg"), ("P", "png"), ("1", "png"), ("LA", "png"), ("RGBA", "png"),
     ("RGBA", "webp"), ("P", "gif"), ("YCbCr", "jpg"), ("RGB", "tiff"), ("L", "bmp"), ("RGB", "ppm")],
)  # fmt: skip
def test_modes_become_rgb(tmp_path, mode, suffix):
    path = tmp_path / f"ünïcode and spaces.{suffix}"
    picture(0).convert(mode).save(path)
    image = read_image(path)
    assert image.mode == "RGB" and image.size == (80, 60)
    expected = np.asarray(picture(0).convert(mode).convert("RGB")).mean()
    assert np.asarray(image).mean() == pytest.approx(expected, abs=12)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "x.png")
    pixels = np.asarray(read_image(tmp_path / "x.png"))
    assert pixels.min() == 0 and pixels.max() == 255 and 120 < pixels.mean() < 135


def test_transparent_pixels_are_white(tmp_path):
    Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(tmp_path / "x.png")
    assert np.asarray(read_image(tmp_path / "x.png")).min() == 255


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(0).save(tmp_path / "x.jpg", exif=exif)
    assert read_image(tmp_path / "x.jpg").size == (60, 80)
    assert read_image(tmp_path / "x.jpg", upright=False).size == (80, 60)


def test_reduced_decoding_never_goes_below_what_is_enough(tmp_path):
    picture(0, 1000, 800).save(tmp_path / "x.jpg")
    width, height = read_image(tmp_path / "x.jpg", at_least=(200, 200)).size
    assert 200 <= height < 800 and 200 <= width < 1000


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "missing", "folder", "bomb"])
def test_what_is_no_picture_says_so(tmp_path, kind, monkeypatch):
    path = tmp_path / "x.jpg"
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("no picture")
    elif kind == "truncated":
        picture(0, 400, 300).save(path)
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "folder":
        path.mkdir()
    elif kind == "bomb":
        picture(0).save(path)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableImage) as caught:
        read_image(path)
    assert str(caught.value) and "\n" not in str(caught.value)


def test_sideways_photos_are_measured_upright(tmp_path):
    image = picture(8, 640, 480)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "x.jpg", exif=exif)
    asked = []
    read, full = read_reduced(tmp_path / "x.jpg", lambda size: asked.append(size) or (240, 320))
    assert asked == [(480, 640)] and full == (480, 640) and read.size == (240, 320)
