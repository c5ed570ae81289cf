"""Montages: every tile is where its label says."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcl.methods.montage import assemble, count_montages, draw_permutation, shuffle_from

SCALES = (1, 2, 4, 8)


def random_tiles(batch: int, size: int, scales) -> dict[int, torch.Tensor]:
    generator = torch.Generator().manual_seed(batch + size)
    return {
        s: torch.randint(0, 256, (batch, 3, size // s, size // s), generator=generator, dtype=torch.uint8)
        for s in scales
    }


@settings(max_examples=25, deadline=None)
@given(batch=st.integers(1, 70), size=st.sampled_from([32, 64, 96]), scales=st.integers(1, 4))
def test_every_tile_stands_where_its_label_says(batch, size, scales):
    scales = SCALES[:scales]
    tiles = random_tiles(batch, size, scales)
    generator = torch.Generator().manual_seed(0)
    counts = count_montages(batch, scales)
    shuffle = shuffle_from({s: draw_permutation(s, counts[s], generator) for s in scales[1:]}, batch)
    canvases = assemble(tiles, shuffle, (0, 0, 0), (1 / 255,) * 3, torch.float64)
    assert len(canvases) == sum(counts.values())
    start = 0
    for scale in scales:
        labels, side = shuffle.labels[scale], size // scale
        assert labels.min() >= 0 and labels.max() < batch
        for position, label in enumerate(labels.tolist()):
            montage, row, column = position // scale**2, position % scale**2 // scale, position % scale
            tile = canvases[
                start + montage, :, row * side : (row + 1) * side, column * side : (column + 1) * side
            ]
            assert torch.equal(tile.round().byte(), tiles[scale][label])
        start += counts[scale]


@given(batch=st.integers(1, 40))
def test_a_batch_that_fills_montages_shows_every_image_equally_often(batch):
    batch *= 32
    for scale, times in ((2, 1), (4, 1), (8, 2)):
        count = count_montages(batch, SCALES)[scale]
        labels = shuffle_from({scale: draw_permutation(scale, count, torch.Generator())}, batch).labels[scale]
        assert (torch.bincount(labels, minlength=batch) == times).all()


def test_counts_of_the_paper_and_of_batches_that_do_not_fit():
    assert count_montages(32, SCALES) == {1: 32, 2: 8, 4: 2, 8: 1}
    assert count_montages(4096, SCALES) == {1: 4096, 2: 1024, 4: 256, 8: 128}
    assert count_montages(3, SCALES) == {1: 3, 2: 1, 4: 1, 8: 1}
    assert count_montages(64, SCALES, {4: 4}) == {1: 64, 2: 16, 4: 16, 8: 1}
    assert count_montages(64, SCALES, fixed={2: 3}) == {1: 64, 2: 3, 4: 4, 8: 2}


def test_normalisation_is_that_of_the_authors():
    tiles = {1: torch.full((1, 3, 32, 32), 200, dtype=torch.uint8)}
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    canvases = assemble(tiles, shuffle_from({}, 1), mean, std, torch.float64)
    expected = torch.tensor(
        [(200 / 255 - m) / s for m, s in zip(mean, std, strict=True)], dtype=torch.float64
    )
    torch.testing.assert_close(canvases[0, :, 5, 7], expected)
