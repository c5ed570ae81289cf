"""Batches depend on the step alone: not on workers, processes, where a run starts, or what is in memory already."""

from __future__ import annotations

import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from images import picture, picture_folder
from levels import view_maker
from mcl.config.pretrain import ViewSettings
from mcl.data.loading.dataset import UnlabeledImages, collate_views, read_shrunk
from mcl.data.loading.decode import read_image
from mcl.data.loading.kept import KeptPictures
from mcl.data.loading.loader import StepSampler, step_batches
from mcl.data.loading.views import Pixels, ViewMaker, ViewSpec, Wanted
from mcl.data.sources.find import find_images
from mcl.errors import RunFailed, UserError
from mcl.methods.mcl.tiles import tile_specs

SCALES = (1, 2, 4)
KEPT = pytest.mark.parametrize("cache_gb", [0.0, 1.0])
CPU = torch.device("cpu")


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def dataset_of(paths, cache_gb=1.0, size=32, **changes) -> UnlabeledImages:
    return UnlabeledImages(paths, view_maker(ViewSettings(cache_gb=cache_gb), SCALES, size, 0), **changes)


@pytest.fixture
def paths(tmp_path):
    """Ten pictures, larger than what is kept of them."""
    for i in range(10):
        picture(i, 200, 150).save(tmp_path / f"{i}.jpg", quality=90)
    return find_images(tmp_path)


@KEPT
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_start_anywhere_with_any_workers(paths, workers, cache_gb):
    whole = list(step_batches(dataset_of(paths, cache_gb), 4, 0, 0, 5, 0, collate_views))
    tail = list(step_batches(dataset_of(paths, cache_gb), 4, 0, 3, 5, workers, collate_views))
    for expected, batch in zip(whole[3:], tail, strict=True):
        assert torch.equal(expected["index"], batch["index"]) and same(expected["views"], batch["views"])


@KEPT
def test_two_processes_share_a_batch(paths, cache_gb):
    one = list(step_batches(dataset_of(paths, cache_gb), 4, 0, 0, 4, 0, collate_views))
    ranks = [
        list(step_batches(dataset_of(paths, cache_gb), 4, 0, 0, 4, 0, collate_views, rank=r, processes=2)) for r in (0, 1)
    ]
    for whole, *parts in zip(one, *ranks, strict=True):
        assert same(whole["views"], {key: torch.cat([p["views"][key] for p in parts]) for key in whole["views"]})


@KEPT
def test_a_sample_is_its_row_of_the_batch(paths, cache_gb):
    keys = [(0, 3), (0, 1), (1, 3), (0, 1)]
    dataset = dataset_of(paths, cache_gb)
    samples = dataset.__getitems__(keys)
    batch = collate_views(samples)
    assert same(collate_views([dataset_of(paths, cache_gb)[key] for key in keys])["views"], batch["views"])
    assert same(collate_views(samples[1:])["views"], {key: views[1:] for key, views in batch["views"].items()})
    assert len(samples) == 4 and samples[2]["index"] == 3 and batch["index"].tolist() == [3, 1, 3, 1]


@KEPT
def test_a_second_pass_sees_what_a_first_would(paths, cache_gb):
    dataset, later = dataset_of(paths, cache_gb), [(1, i) for i in range(10)]
    collate_views(dataset.__getitems__([(0, i) for i in range(10)]))
    assert (dataset.kept is not None) == bool(cache_gb)
    again = collate_views(dataset.__getitems__(later))["views"]
    assert same(again, collate_views(dataset_of(paths, cache_gb).__getitems__(later))["views"])


def test_kept_pictures_are_not_read_again(paths):
    dataset = dataset_of(paths)
    before = collate_views(dataset.__getitems__([(0, i) for i in range(10)]))["views"]
    for path in paths:
        path.unlink()
    assert same(collate_views(dataset.__getitems__([(0, i) for i in range(10)]))["views"], before)


def test_pictures_are_kept_if_the_set_fits(paths):
    side = view_maker(ViewSettings(), SCALES, 32, 0).shorter_side()
    assert side == 72  # 32 / sqrt(0.2)
    needed = KeptPictures.bytes_needed(10, side) / 1e9
    assert dataset_of(paths, needed).kept.side == side and dataset_of(paths, 0.999 * needed).kept is None
    assert "72 pixels: 0.00 GB" in dataset_of(paths, needed).notes()[0] and dataset_of(paths, 0).notes() == []


def test_keeping_changes_tiles_little(tmp_path):
    still = {"blur": (0, 0), "jitter": 0, "gray": 0, "solarize": (0, 0)}
    smooth = [picture(i, 125, 94).resize((500, 375), Image.Resampling.BICUBIC) for i in range(4)]
    for i, image in enumerate(smooth):
        image.save(tmp_path / f"{i}.jpg", quality=95)
    found = find_images(tmp_path)
    wanted = Wanted(tile_specs((1, 2, 4), 64, strided=False), geometry=True)
    maker = ViewMaker(ViewSettings(**still), wanted, 0)
    kept = UnlabeledImages(found, maker)
    for index, path in enumerate(found):
        sample, whole = kept[0, index], np.array(read_image(path))
        for (tile, _), key in zip(maker.cut(Pixels(whole, (500, 375)), _in_pixels(sample["crops"])), sample["views"], strict=True):
            tile = tile[0].flip(-1) if sample["crops"][key][4] else tile[0]
            assert (sample["views"][key].float() - tile.float()).abs().mean() < 2.5, key
    assert kept.kept.get(0)[0].shape == (144, 192, 3) and kept.kept.get(0)[1] == (500, 375)


def _in_pixels(crops):
    return [tuple((crop[:4] * torch.tensor([500, 375, 500, 375])).round().int().tolist()) for crop in crops.values()]


def test_forked_processes_share_what_is_kept(paths):
    dataset = dataset_of(paths)
    loader = DataLoader(dataset, batch_sampler=[[(0, i)] for i in range(10)], num_workers=2, collate_fn=collate_views,
                        multiprocessing_context="fork")  # fmt: skip
    list(loader)
    assert all(np.array_equal(dataset.kept.get(i)[0], read_shrunk(paths[i], 72)[0]) for i in range(10))


def test_started_processes_have_rooms_of_their_own(paths):
    dataset = dataset_of(paths)
    first = dataset[0, 0]
    copy = pickle.loads(pickle.dumps(dataset.kept.__getstate__()))
    room = KeptPictures(**copy)
    assert room.get(0) is None and room.side == dataset.kept.side
    loader = DataLoader(dataset, batch_sampler=[[(0, 0)]], num_workers=1, collate_fn=collate_views,
                        multiprocessing_context="spawn")  # fmt: skip
    assert same(next(iter(loader))["views"], {key: view[None] for key, view in first["views"].items()})


def test_a_room_that_is_full_keeps_no_more():
    room = KeptPictures(2, 10)
    long = np.ones((10, 30, 3), np.uint8)
    for index in range(2):
        room.put(index, long * index, (600, 200))
    assert room.get(0)[1] == (600, 200) and room.get(1) is None
    room.put(0, long + 5, (1, 1))
    assert not room.get(0)[0].any()


def test_two_writers_never_mix(tmp_path):
    room = KeptPictures(200, 16)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_fill, args=(room, value)) for value in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    for index in range(200):
        pixels, full = room.get(index)
        assert full == (index, 7) and pixels.min() == pixels.max() and pixels.max() in (1, 2)


def _fill(room: KeptPictures, value: int) -> None:
    for index in range(200) if value == 1 else range(199, -1, -1):
        room.put(index, np.full((16, 20, 3), value, np.uint8), (index, 7))


def test_no_room_is_one_line(paths, monkeypatch):
    def refuse(*_):
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr("mcl.data.loading.kept.mmap.mmap", refuse)
    with pytest.raises(UserError, match=r"no room in memory for 10 pictures.*views.cache_gb 0"):
        dataset_of(paths)


@KEPT
def test_unfinished_batches_are_finished_to_the_same_pixels(paths, cache_gb):
    whole = list(step_batches(dataset_of(paths, cache_gb), 4, 0, 0, 3, 0, collate_views))
    later = dataset_of(paths, cache_gb, unfinished=True)
    for workers in (0, 1):
        stream = step_batches(later, 4, 0, 0, 3, workers, collate_views)
        for expected, batch in zip(whole, later.finished(stream, CPU), strict=True):
            assert batch.keys() == expected.keys() and same(batch["views"], expected["views"])
    assert same(later[0, 1]["views"], dataset_of(paths, cache_gb)[0, 1]["views"])


@KEPT
def test_places_and_fields_come_with_the_views(paths, cache_gb):
    wanted = Wanted((ViewSpec((1, 1), 32, 0), ViewSpec((2, 1), 16, 1)), geometry=True, fields=_number_of)
    still = ViewSettings(jitter=0, gray=0, blur=(0, 0), solarize=(0, 0), cache_gb=cache_gb)
    dataset = UnlabeledImages(paths, ViewMaker(still, wanted, 0))
    batch = collate_views(dataset.__getitems__([(0, i) for i in range(10)]))
    assert batch["fields"]["number"].tolist() == list(range(10))
    crops = batch["crops"][1, 1]
    assert crops.shape == (10, 5) and crops.dtype == torch.float32 and set(crops[:, 4].tolist()) == {0.0, 1.0}
    for path, view, (left, top, right, bottom, flipped) in zip(paths, batch["views"][1, 1], crops.tolist(), strict=True):
        image = read_image(path)
        part = image.crop((round(left * 200), round(top * 150), round(right * 200), round(bottom * 150))).resize((32, 32))
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else part
        assert (view.float() - torch.from_numpy(np.array(part)).permute(2, 0, 1)).abs().mean() < 8
    alone = dataset[0, 4]
    assert torch.equal(alone["crops"][2, 1], batch["crops"][2, 1][4]) and alone["fields"] == {"number": 4}


def _number_of(path, number) -> dict[str, int]:
    assert int(path.stem) == number
    return {"number": number}


def test_every_image_once_an_epoch_and_small_sets_wrap_around():
    batches = list(StepSampler(images=12, batch=4, seed=0, start_step=0, total_steps=6))
    first, second = (sorted(i for b in part for _, i in b) for part in (batches[:3], batches[3:]))
    assert first == second == list(range(12)) and batches[0] != batches[3]
    assert [len(b) for b in StepSampler(3, 8, 0, 0, 2)] == [8, 8]


@KEPT
def test_unreadable_images_are_replaced_and_told(tmp_path, cache_gb):
    found = find_images(picture_folder(tmp_path, 4))
    found[1].write_bytes(b"")
    dataset = dataset_of(found, cache_gb)
    for _ in range(2):
        sample = dataset[0, 1]
        assert sample["unreadable"] == [(str(found[1]), "not an image that Pillow can read, or empty")]
        expected = view_maker(ViewSettings(), SCALES, 32, 0)(read_image(found[2]), 0, 1)
        assert sample["index"] == 1 and same(sample["views"], expected)  # small pictures are kept as they are
    assert collate_views(dataset.__getitems__([(0, 0), (0, 1)]))["unreadable"] == sample["unreadable"]


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_worker_raises_stays_one_line(tmp_path, workers):
    found = find_images(picture_folder(tmp_path, 3))
    for path in found:
        path.write_bytes(b"")
    with pytest.raises(RunFailed, match="^none of the 3 images can be read any more") as caught:
        next(step_batches(dataset_of(found), 2, 0, 0, 1, workers, collate_views))
    assert "\n" not in str(caught.value)
