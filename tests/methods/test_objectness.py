"""What looks like an object: contrast, uncut segments, and the ranking of a picture's proposals."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mcl.methods.objectness import ObjectSearch, colour_contrast, objectness, uncut
from mcl.methods.proposals import STEPS


@pytest.fixture
def pixels() -> np.ndarray:
    """A red square, from 30 to 70 across and 20 to 60 down, on soft green noise."""
    noise = np.random.default_rng(0).integers(0, 25, (96, 128, 3))
    made = (np.array([40, 140, 60]) + noise).astype(np.uint8)
    made[20:60, 30:70] = (30, 30, 200)  # BGR
    return made


def boxes(*rows) -> np.ndarray:
    return np.array(rows, dtype=float)


def test_contrast_is_highest_for_the_whole_object(pixels):
    found = colour_contrast(pixels, boxes([30, 20, 70, 60], [36, 26, 64, 54], [80, 60, 110, 90], [30, 20, 110, 90]))
    assert found[0] == pytest.approx(1, abs=1e-3) and found[2] < 0.2
    assert found[0] > found[3] > found[2] and found[0] > found[1]


def test_a_box_that_cuts_through_a_segment_is_none(pixels):
    whole, half, inside = uncut(pixels, boxes([30, 20, 70, 60], [30, 20, 50, 60], [40, 30, 50, 40]))
    assert whole > 0.95 and half < 0.05 and inside < 0.05


def test_what_the_edge_cuts_off_counts_less(pixels):
    inner = objectness(pixels, boxes([30, 20, 70, 60]))
    moved = objectness(np.roll(pixels, -30, axis=1), boxes([0, 20, 40, 60]))
    assert moved[0] == pytest.approx(0.6 * inner[0], rel=0.1)


def test_the_object_comes_first(pixels):
    kept = ObjectSearch(most=3)(Image.fromarray(pixels[..., ::-1].copy()))
    found = np.frombuffer(kept, np.uint16).reshape(-1, 4) / STEPS * (128, 96, 128, 96)
    assert 1 <= len(found) <= 3
    np.testing.assert_allclose(found[0], [30, 20, 70, 60], atol=2)


def test_a_picture_of_one_colour_has_no_or_any_proposals():
    kept = ObjectSearch(most=3)(Image.new("RGB", (64, 64), (9, 9, 9)))
    assert len(kept) % 8 == 0
