"""The loader's and the decoders' bench."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mcl.bench.loading import OURS, PLAIN, datasets, decode_rows, loader_rate, pixel_error, size_of
from mcl.bench.pictures import picture, write_pictures
from mcl.config.base import from_values
from mcl.config.bench import BenchDataSettings
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
    loader, decoding = bench_data(from_values(BenchDataSettings, given))["tables"]
    assert [row["workers"] for row in loader["rows"]] == [1, 1] and len(decoding["rows"]) >= 3
