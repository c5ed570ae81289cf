"""Tiles depend on (seed, epoch, index, view, scale) alone; crops are torchvision's; reading small changes little."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from images import picture
from levels import view_maker
from mcl.config.pretrain import ViewSettings
from mcl.data.loading.decode import read_image
from mcl.data.loading.draws import place
from mcl.data.loading.views import Pixels, ViewMaker, ViewSpec, Wanted

SCALES = (1, 2, 4)
STILL = {
    "crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "flip": 0.0, "jitter": 0.0, "gray": 0.0,
    "blur": (0.0, 0.0), "solarize": (0.0, 0.0),
}  # fmt: skip


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_tiles_are_a_function_of_their_numbers():
    maker, image = view_maker(ViewSettings(), SCALES, 64, 3), picture(0)
    first = maker(image, epoch=1, index=5)
    torch.rand(7)
    assert same(first, maker(image, 1, 5))
    for other in (
        maker(image, 2, 5),
        maker(image, 1, 6),
        view_maker(ViewSettings(), SCALES, 64, 4)(image, 1, 5),
    ):
        assert not same(first, other)
    assert {key: tuple(tile.shape) for key, tile in first.items()} == {
        (view, s): (3, 64 // s, 64 // s) for view in (1, 2) for s in SCALES
    }
    assert first[1, 1].dtype == torch.uint8 and not torch.equal(first[1, 1], first[2, 1])


def test_the_callers_random_state_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    view_maker(ViewSettings(), SCALES, 64, 3)(picture(0), 0, 0)
    assert torch.equal(torch.rand(3), expected)


def test_stride_takes_every_sth_pixel_of_a_full_size_view():
    maker = view_maker(ViewSettings(**STILL, downsample="stride"), (1, 4), 64, 0)
    tiles = maker(picture(0, 64, 64), 0, 0)
    assert torch.equal(tiles[1, 4], tiles[1, 1][:, ::4, ::4])


def test_tile_sized_crops_are_anti_aliased():
    checkers = picture(0, 64, 64).point(lambda _: 0)
    checkers.putdata([(255 * ((x + y) % 2),) * 3 for y in range(64) for x in range(64)])
    tile = view_maker(ViewSettings(**STILL), (1, 4), 64, 0)(checkers, 0, 0)[1, 4]
    assert 100 < tile.float().mean() < 155 and tile.float().std() < 20


def test_full_probabilities_reach_the_right_view():
    view = ViewSettings(**{**STILL, "solarize": (0.0, 1.0)})
    tiles = view_maker(view, (1,), 64, 0)(picture(0, 64, 64), 0, 0)
    expected = torch.where(tiles[1, 1] >= 128, 255 - tiles[1, 1], tiles[1, 1])
    assert torch.equal(tiles[2, 1], expected)


def uncoloured(**settings) -> ViewSettings:
    return ViewSettings(blur=(0, 0), jitter=0, gray=0, solarize=(0, 0), **settings)


def test_a_crop_is_torchvisions():
    image, maker = picture(5, 120, 90), view_maker(uncoloured(flip=0), (1, 2), 64, 0)
    drawn = maker.draw([0], [3])
    places = maker.places(drawn, 0, image.size)
    views = maker(image, 0, 3)
    assert places[2] == place(drawn.places[0, 2], (0.2, 1.0), (3 / 4, 4 / 3), 120, 90)
    for spec, (left, top, right, bottom) in zip(maker.wanted.views, places, strict=True):
        theirs = F.resized_crop(F.pil_to_tensor(image), top, left, bottom - top, right - left, [spec.size] * 2, antialias=True)
        assert torch.equal(views[spec.key], theirs)


def test_views_ask_for_their_own_share_of_the_image():
    specs = (ViewSpec((1, 1), 32, 0, crop_scale=(0.05, 0.1)), ViewSpec((2, 1), 32, 1, crop_scale=(0.9, 1.0)))
    maker = ViewMaker(ViewSettings(), Wanted(specs), 0)
    small, large = zip(*(maker.places(maker.draw([0], [i]), 0, (200, 200)) for i in range(50)), strict=True)
    assert max((r - l) * (b - t) for l, t, r, b in small) < 0.11 * 40000  # noqa: E741
    assert min((r - l) * (b - t) for l, t, r, b in large) > 0.89 * 40000  # noqa: E741


@pytest.mark.parametrize("size", [(500, 375), (1600, 1200), (90, 700)])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_reading_at_reduced_size_changes_tiles_little(tmp_path, size, suffix):
    smooth = picture(6, size[0] // 4, size[1] // 4).resize(size, Image.Resampling.BICUBIC)
    smooth.save(tmp_path / f"x.{suffix}", quality=95)
    maker, whole = view_maker(uncoloured(), (1, 2, 4), 64, 0), read_image(tmp_path / f"x.{suffix}")
    for index in range(4):
        reduced, places = maker.decode(tmp_path / f"x.{suffix}", maker.draw([0], [index]), 0)
        cuts = maker.cut(reduced, places)
        smaller = whole.width / reduced.array.shape[1]
        # Borders lie between pixels of what was read, so they move by half of one.
        used = [tuple(round(smaller * border) for border in box) for _, box in cuts]
        assert np.abs(np.array(used) - np.array(places)).max() <= smaller / 2 + 1
        for (tile, _), (expected, _) in zip(cuts, maker.cut(Pixels(np.array(whole), whole.size), used), strict=True):
            assert (tile.float() - expected.float()).abs().mean() < 1.5


def test_never_fewer_pixels_than_the_tile(tmp_path):
    picture(7, 1000, 750).save(tmp_path / "x.jpg")
    maker, factors = view_maker(ViewSettings(), (1, 2), 64, 0), set()
    for index in range(12):
        pixels, places = maker.decode(tmp_path / "x.jpg", maker.draw([0], [index]), 0)
        assert pixels.full == (1000, 750)
        smaller = 1000 // pixels.array.shape[1]
        factors.add(smaller)
        for spec, (left, top, right, bottom) in zip(maker.wanted.views, places, strict=True):
            assert min(right - left, bottom - top) / smaller >= spec.size - 0.5
    assert factors >= {4, 8}


def test_large_pictures_of_other_formats_are_made_smaller_once(tmp_path):
    picture(7, 2000, 1500).save(tmp_path / "x.png")
    maker = view_maker(ViewSettings(crop_scale=(0.8, 1.0)), (1, 2), 64, 0)
    pixels, _ = maker.decode(tmp_path / "x.png", maker.draw([0], [0]), 0)
    assert pixels.full == (2000, 1500) and pixels.array.shape == (188, 250, 3)


def test_crops_are_at_least_a_pixel_and_lie_inside():
    maker = view_maker(ViewSettings(), (1, 2), 64, 0)
    array = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    found = maker.cut(Pixels(array, (1000, 800)), [(0, 0, 10, 10), (990, 0, 1000, 10), (400, 300, 600, 790), (0, 0, 1000, 800)])
    assert [box for _, box in found] == [(0, 0, 1, 1), (1, 0, 2, 1), (1, 1, 2, 2), (0, 0, 2, 2)]
    assert all(view.shape == (1, 3, spec.size, spec.size) for (view, _), spec in zip(found, maker.wanted.views, strict=True))
