"""The loss and the target assignments, against definitions written out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mcl.methods.health import embedding_rank, embedding_spread
from mcl.methods.level_loss import contrast, level_weights
from mcl.methods.mcl.assignment import ASSIGNMENTS, target_scales


@settings(max_examples=30, deadline=None)
@given(
    tiles=st.integers(1, 12),
    images=st.integers(1, 9),
    temperature=st.floats(0.05, 2),
    seed=st.integers(0, 99),
)
def test_one_positive_is_the_plain_cross_entropy(tiles, images, temperature, seed):
    generator = torch.Generator().manual_seed(seed)
    predictions = torch.randn(tiles, 7, generator=generator, dtype=torch.float64)
    targets = F.normalize(torch.randn(images, 7, generator=generator, dtype=torch.float64), dim=1)
    labels = torch.randint(0, images, (tiles,), generator=generator)
    result = contrast(predictions, labels, targets, torch.arange(images), temperature, 0.25)
    logits = F.normalize(predictions, dim=1) @ targets.T / temperature
    torch.testing.assert_close(result.loss, 0.25 * 2 * temperature * F.cross_entropy(logits, labels))


def test_several_positives_average_their_cross_entropies():
    predictions, targets = (
        torch.randn(1, 5, dtype=torch.float64),
        F.normalize(torch.randn(4, 5, dtype=torch.float64), dim=1),
    )
    result = contrast(predictions, torch.tensor([3]), targets, torch.tensor([3, 0, 3, 1]), 0.5, 1.0)
    logits = F.normalize(predictions, dim=1) @ targets.T / 0.5
    expected = (F.cross_entropy(logits, torch.tensor([0])) + F.cross_entropy(logits, torch.tensor([2]))) / 2
    torch.testing.assert_close(result.loss, expected)


def test_tiles_without_a_positive_do_not_count():
    predictions, targets = torch.randn(3, 5), F.normalize(torch.randn(2, 5), dim=1)
    with_orphan = contrast(predictions, torch.tensor([0, 9, 1]), targets, torch.tensor([0, 1]), 1.0, 1.0)
    without = contrast(predictions[[0, 2]], torch.tensor([0, 1]), targets, torch.tensor([0, 1]), 1.0, 1.0)
    torch.testing.assert_close(with_orphan.loss, without.loss)


def test_perfect_and_uniform_predictions():
    targets = torch.eye(6)
    perfect = contrast(targets * 3, torch.arange(6), targets, torch.arange(6), 1.0, 1.0)
    assert perfect.positive_cosine == 1 and perfect.negative_cosine == 0
    uniform = contrast(torch.ones(6, 6), torch.arange(6), targets, torch.arange(6), 1.0, 0.5)
    assert uniform.loss.item() == pytest.approx(math.log(6))
    assert perfect.accuracy == 1 and uniform.accuracy.item() == pytest.approx(1 / 6)


def test_accuracy_counts_tiles_nearest_to_their_own_image_and_chance_is_what_guessing_gives():
    targets = torch.eye(4, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 2, 7])  # the last has no target
    predictions = targets[[0, 2, 2, 3, 0]] + 0.1
    result = contrast(predictions, labels, targets, torch.tensor([0, 1, 2, 2]), 0.3, 1.0)
    assert result.accuracy.item() == 3 / 4  # tiles 0, 2 and 3 (nearest to a second target of image 2)
    assert result.chance.item() == pytest.approx((1 + 1 + 2 + 2) / 4 / 4)
    assert not result.accuracy.requires_grad and result.accuracy.dtype == torch.float64


def test_loss_is_fp32_under_autocast():
    predictions, targets = torch.randn(4, 8).bfloat16(), F.normalize(torch.randn(4, 8), dim=1)
    assert (
        contrast(predictions, torch.arange(4), targets, torch.arange(4), 1.0, 1.0).loss.dtype == torch.float32
    )


@pytest.mark.parametrize(
    ("scales", "expected"),
    [(1, [1]), (2, [1 / 2] * 2), (3, [1 / 2, 1 / 4, 1 / 4]), (4, [1 / 2, 1 / 4, 1 / 8, 1 / 8])],
)
def test_level_weights(scales, expected):
    assert level_weights(scales) == expected


def test_assignments_are_those_of_the_papers_figure():
    scales = (1, 2, 4, 8)
    expected = {
        "top": [(1,), (1,), (1,), (1,)],
        "same": [(1,), (2,), (4,), (8,)],
        "adjacent": [(1, 2), (1, 2, 4), (2, 4, 8), (4, 8)],
        "all": [scales] * 4,
    }
    assert set(expected) == set(ASSIGNMENTS)
    for assignment, rows in expected.items():
        assert [target_scales(assignment, scale, scales) for scale in scales] == rows


def test_spread_tells_collapse_from_spread_out_embeddings():
    assert embedding_spread(torch.randn(512, 64)) == pytest.approx(1, abs=0.05)
    assert embedding_spread(torch.ones(512, 64) + 1e-4 * torch.randn(512, 64)) < 0.01


def test_rank_sees_a_collapse_that_the_spread_does_not():
    """After a BatchNorm every coordinate is spread out, though all of them may say the same."""
    on_a_line = torch.randn(64, 1) * torch.ones(1, 16) + 1e-3 * torch.randn(64, 16)
    assert embedding_spread(on_a_line) == pytest.approx(1, abs=0.1)
    assert embedding_rank(on_a_line) == pytest.approx(1, abs=0.01)
    assert embedding_rank(torch.randn(4096, 16)) == pytest.approx(16, rel=0.05)
    few = torch.randn(9, 512)
    assert embedding_rank(few) == pytest.approx(8, rel=0.1), "nine points span eight directions"
    assert embedding_rank(few.repeat(100, 1)) == pytest.approx(float(embedding_rank(few)), rel=1e-3)
