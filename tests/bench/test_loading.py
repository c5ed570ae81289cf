"""The loader's and the decoders' bench."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mcl.bench.loader_parts import ANEW, KEPT, REST, TOTAL, PartClock, part_rows
from mcl.bench.loading import OURS, PLAIN, datasets, decode_rows, loader_rate, pixel_error, size_of
from mcl.bench.pictures import picture, write_pictures
from mcl.config.base import from_values
from mcl.config.bench import BenchDataSettings
from mcl.data.loading.parts import BLURRING, COLOUR, CROP, DECODE, DRAW
from mcl.run.bench import bench_data


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("photos"), 10, 120, 90)


@pytest.fixture
def settings():
    return from_values(BenchDataSettings, {"image_size": 32, "method.scales": [1, 2], "rounds": 1})


def test_pictures_have_the_spectrum_and_the_size_of_photographs(paths):
    pixels = np.asarray(picture(0, 256, 256), dtype=float).mean(axis=2)
    power = np.abs(np.fft.rfft2(pixels - pixels.mean()))
    assert power[1:4, 1:4].mean() > 20 * power[60:80, 60:80].mean() > 0
    assert len({path.read_bytes() for path in paths}) == 8
    assert 1 < 8 * paths[0].stat().st_size / (120 * 90) < 6  # bits a pixel
    assert size_of(paths).startswith("120x90")


def test_both_orders_give_samples_of_one_form(settings, paths):
    samples = {name: dataset[0, 3] for name, dataset in datasets(settings, paths).items()}
    for view in (1, 2):
        for scale in (1, 2):
            ours, plain = (samples[name]["views"][view, scale] for name in (OURS, PLAIN))
            assert ours.shape == plain.shape == (3, 32 // scale, 32 // scale)
            assert ours.dtype == plain.dtype == torch.uint8
    plain = datasets(settings, paths)[PLAIN]
    assert torch.equal(plain[0, 3]["views"][1, 2], plain[0, 3]["views"][1, 2])


def test_rates_and_pixel_error(settings, paths):
    assert loader_rate(datasets(settings, paths)[OURS], 1) > 0
    assert pixel_error(paths[0], (1000, 1000), 32) == 0.0
    assert 0 < pixel_error(paths[0], (32, 32), 32) < 12


def test_decoders_side_by_side(settings, paths):
    rows = decode_rows(settings, paths, "photos")
    assert [row["side"].split()[0] for row in rows][:3] == ["mcl", "Pillow,", "torchvision"]
    assert all(row["milliseconds"] > 0 for row in rows) and rows[1]["speedup"] == 1.0


def test_the_command():
    given = {
        "image_size": 32,
        "method.scales": [1],
        "rounds": 1,
        "images": 8,
        "sizes": ["64x48"],
        "workers": [1],
    }
    loader, decoding, parts = bench_data(from_values(BenchDataSettings, given))["tables"]
    assert [row["workers"] for row in loader["rows"]] == [1, 1, 1] and len(decoding["rows"]) >= 3
    assert [row["side"] for row in parts["rows"]] == [ANEW, KEPT]
    for row in parts["rows"]:
        assert all(row[part] > 0 for part in (DECODE, DRAW, CROP, COLOUR, REST))
        assert row["share"] == pytest.approx(row[TOTAL] * 96 / 1e3 / row["step_seconds"])
    assert parts["rows"][1][DECODE] < parts["rows"][0][DECODE] / 3


def test_without_workers_no_rate_is_measured():
    given = {"image_size": 32, "method.scales": [1], "rounds": 1, "images": 4, "sizes": ["64x48"], "workers": [], "step": False}
    tables = bench_data(from_values(BenchDataSettings, given))["tables"]
    assert ["of a step" in str(table["columns"]) for table in tables] == [False, True]


def test_parts_take_no_time_twice(monkeypatch):
    times = iter([0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 63.0])
    monkeypatch.setattr("mcl.bench.loader_parts.time.process_time", lambda: next(times))
    clock = PartClock()
    with clock.span(DECODE), clock.span(DRAW):
        pass
    with pytest.raises(RuntimeError), clock.span(CROP):
        raise RuntimeError
    monkeypatch.setattr("mcl.bench.loader_parts.time.process_time", lambda: 100.0)
    expected = {REST: 1.0 + 16.0 + 37.0, DECODE: 2.0 + 8.0, DRAW: 4.0, CROP: 32.0, COLOUR: 0.0, BLURRING: 0.0, TOTAL: 100.0}
    assert clock.take() == expected and clock.take()[TOTAL] == 0.0


def test_without_a_step_no_share_is_told(settings, paths):
    rows = part_rows(settings.model_copy(update={"step": False, "batch": 4}), {"photos": paths}, torch.device("cpu"))
    assert [row["share"] for row in rows] == [None, None] and rows[0]["what"] == "photos, anew"
