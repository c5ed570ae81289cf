"""Means and 95 % intervals over seeds and test images, by bootstrap; differences paired by both.

A group's values are AP[pre-training seed, fine-tuning seed, resample of the test images]. In every resample seeds are
drawn again too, the same ones for all groups with as many, so that differences are between like and like. Drawing n
values again from n gives (n - 1) / n of their variance, which matters for two or three seeds: deviations from the
mean over seeds are scaled by sqrt(n / (n - 1)) first. AP of drawn images is a little higher than of the real ones
(copies of an image share its luck), so intervals are moved to have the real value in the middle of the draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEVEL = 95.0
NOTHING = 1e-9  # a way from scratch to the control that is none


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval (None: cannot be told).

    Attributes:
        value: of the real test images, mean over seeds.
    """

    value: float
    low: float | None
    high: float | None

    def as_list(self) -> list[float | None]:
        """``[value, low, high]``, rounded for a JSON file."""
        return [None if number is None else round(number, 5) for number in (self.value, self.low, self.high)]


@dataclass(frozen=True)
class Sample:
    """A group's values.

    Attributes:
        point: (P, F) on the real test images.
        resampled: (P, F, B) on resampled ones.
        seeds: the F seeds of fine-tuning.
    """

    point: np.ndarray
    resampled: np.ndarray
    seeds: tuple[int, ...]

    def of_seeds(self, seeds: tuple[int, ...]) -> Sample:
        """The same with fewer seeds of fine-tuning."""
        kept = [self.seeds.index(seed) for seed in seeds]
        return Sample(self.point[:, kept], self.resampled[:, kept], seeds)

    def draws(self) -> np.ndarray:
        """(B,) means over seeds that are drawn again, one for each resample of the images."""
        values = _widened(_widened(self.resampled, 0), 1)
        pretrain, finetune, count = values.shape
        p, f = _seeds_drawn(pretrain, count, 0), _seeds_drawn(finetune, count, 1)  # (B, P), (B, F)
        return values[p[:, :, None], f[:, None, :], np.arange(count)[:, None, None]].mean((1, 2))


def mean(sample: Sample) -> Estimate:
    """Over seeds and images."""
    estimate = _estimate(float(sample.point.mean()), sample.draws())
    return Estimate(estimate.value, *(None if end is None else min(max(end, 0.0), 1.0) for end in (estimate.low, estimate.high)))


def difference(sample: Sample, reference: Sample) -> Estimate:
    """``sample`` minus ``reference``, over the seeds of fine-tuning that both have."""
    one, other = _common(sample, reference)
    return _estimate(float(one.point.mean() - other.point.mean()), one.draws() - other.draws())


def share_of_way(sample: Sample, reference: Sample, control: Sample) -> Estimate | None:
    """0 at the reference, 1 at the control; None where the control is no better."""
    one, start, end = _common(sample, reference, control)
    way = float(end.point.mean() - start.point.mean())
    if way < NOTHING:
        return None
    base = start.draws()
    ways = end.draws() - base
    # A resample whose way is none (or backwards) says nothing of shares; many of them make the interval empty.
    shares = np.where(ways > NOTHING, (one.draws() - base) / np.where(ways > NOTHING, ways, 1), np.nan)
    return _estimate(float(one.point.mean() - start.point.mean()) / way, shares)


def _common(*samples: Sample) -> list[Sample]:
    shared = set.intersection(*(set(sample.seeds) for sample in samples))
    seeds = tuple(seed for seed in samples[0].seeds if seed in shared)
    return [sample.of_seeds(seeds) for sample in samples]


def _widened(values: np.ndarray, axis: int) -> np.ndarray:
    count = values.shape[axis]
    if count == 1:
        return values
    center = values.mean(axis, keepdims=True)
    return center + np.sqrt(count / (count - 1)) * (values - center)


def _seeds_drawn(seeds: int, count: int, stream: int) -> np.ndarray:
    return np.random.default_rng([stream, seeds]).integers(0, seeds, (count, seeds))


def _estimate(value: float, draws: np.ndarray) -> Estimate:
    kept = draws[~np.isnan(draws)]
    if len(kept) < 0.9 * len(draws):
        return Estimate(value, None, None)
    moved = kept + (value - np.median(kept))
    low, high = np.percentile(moved, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))
