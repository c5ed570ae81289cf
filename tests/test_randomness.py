"""Random numbers are a function of the numbers they are asked for with."""

from __future__ import annotations

import numpy as np
import pytest

from mcl.randomness import GAMMA, _mix, uniform


def test_the_mixing_is_splitmix64():
    steps = np.uint64(1234567) + np.arange(1, 4, dtype=np.uint64) * GAMMA
    assert _mix(steps).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_a_table_is_what_its_tuples_give_one_by_one():
    epochs, views = np.array([[3], [4]]), np.array([1, 2, -5])
    table = uniform(7, 2**61, epochs, views)
    assert table.shape == (2, 3, 7) and table.dtype == np.float64
    for i, epoch in enumerate((3, 4)):
        for j, view in enumerate((1, 2, -5)):
            assert np.array_equal(table[i, j], uniform(7, 2**61, epoch, view))
    assert len(np.unique(table)) == table.size


@pytest.mark.parametrize("other", [(1, 5, 7), (2, 4, 7), (2, 5, 8), (2, 7, 5), (2, 5, 7, 0)])
def test_every_number_and_its_place_count(other):
    assert not np.isin(uniform(20, 2, 5, 7), uniform(20, *other)).any()


def test_numbers_are_even_and_without_order():
    table = uniform(50, 0, np.arange(2000)[:, None, None], np.array([[1], [2]]), np.array([1, 8]))
    assert table.min() >= 0 and table.max() < 1
    assert abs(table.mean() - 0.5) < 0.005 and abs(table.var() - 1 / 12) < 0.002
    counts = np.histogram(table, 64, (0, 1))[0]
    expected = table.size / 64
    assert ((counts - expected) ** 2 / expected).sum() < 64 + 5 * np.sqrt(2 * 64)  # chi square
    flat = table.reshape(len(table), -1) - 0.5
    neighbours = [(flat[1:] * flat[:-1]).mean(), (flat[:, 1:] * flat[:, :-1]).mean()]  # of indices, of numbers
    assert np.abs(neighbours).max() * 12 < 5 / np.sqrt(flat.size)
