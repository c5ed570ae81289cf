"""Tiles depend on (seed, epoch, index, view, scale) alone, and batches on the step alone."""

from __future__ import annotations

import pytest
import torch

from images import picture, picture_folder
from levels import view_maker
from mcl.config.pretrain import ViewSettings
from mcl.data.loading.loader import StepSampler, step_batches
from mcl.data.loading.views import UnlabeledImages, collate_views
from mcl.data.sources.find import find_images
from mcl.errors import RunFailed

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


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_start_anywhere_with_any_workers(tmp_path, workers):
    paths = find_images(picture_folder(tmp_path, 10))
    dataset = UnlabeledImages(paths, view_maker(ViewSettings(), SCALES, 32, 0))
    whole = list(step_batches(dataset, 4, 0, 0, 5, 0, collate_views))
    tail = list(step_batches(dataset, 4, 0, 3, 5, workers, collate_views))
    for expected, batch in zip(whole[3:], tail, strict=True):
        assert torch.equal(expected["index"], batch["index"]) and same(expected["views"], batch["views"])


def test_every_image_once_an_epoch_and_small_sets_wrap_around():
    batches = list(StepSampler(images=12, batch=4, seed=0, start_step=0, total_steps=6))
    first, second = (sorted(i for b in part for _, i in b) for part in (batches[:3], batches[3:]))
    assert first == second == list(range(12)) and batches[0] != batches[3]
    assert [len(b) for b in StepSampler(3, 8, 0, 0, 2)] == [8, 8]


def test_unreadable_images_are_replaced_and_told(tmp_path):
    paths = find_images(picture_folder(tmp_path, 4))
    paths[1].write_bytes(b"")
    sample = UnlabeledImages(paths, view_maker(ViewSettings(), SCALES, 32, 0))[0, 1]
    assert sample["unreadable"] == [(str(paths[1]), "not an image that Pillow can read, or empty")]
    assert same(sample["views"], view_maker(ViewSettings(), SCALES, 32, 0)(picture_of(paths[2]), 0, 1))


def picture_of(path):
    from mcl.data.loading.decode import read_image

    return read_image(path)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_worker_raises_stays_one_line(tmp_path, workers):
    paths = find_images(picture_folder(tmp_path, 3))
    for path in paths:
        path.write_bytes(b"")
    dataset = UnlabeledImages(paths, view_maker(ViewSettings(), SCALES, 32, 0))
    with pytest.raises(RunFailed, match="^none of the 3 images can be read any more") as caught:
        next(step_batches(dataset, 2, 0, 0, 1, workers, collate_views))
    assert "\n" not in str(caught.value)
