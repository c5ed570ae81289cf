"""AP of several detectors on the same test scenes: their differences, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mcl.report.found import scenes_of
from mcl.report.runs import Run
from mcl.studies.matches import Matches, resample_weights
from mcl.studies.statistics import Estimate, Sample, difference, mean

KINDS = {"bbox": "box AP", "segm": "mask AP"}
SEEDS = (0,)  # a run is one training: nothing is known of others


@dataclass(frozen=True)
class Compared:
    """Detectors that were measured on the same scenes, the first one the reference.

    Attributes:
        val: the annotation file.
        runs: in the order given.
        aps: (name of the run, kind of AP) -> AP with its interval.
        differences: the same, less the reference's.
        missing: why there are no intervals, or "".
    """

    val: str
    runs: tuple[Run, ...]
    aps: Mapping[tuple[str, str], Estimate]
    differences: Mapping[tuple[str, str], Estimate]
    missing: str = ""


def compare_runs(runs: Sequence[Run], resamples: int) -> list[Compared]:
    """One comparison for every annotation file that runs were measured on.

    Args:
        resamples: of the test images; 0: no intervals.
    """
    by_file: dict[str, list[Run]] = {}
    for run in runs:
        if run.numbers:
            by_file.setdefault(str(Path(run.settings["val"]).resolve()), []).append(run)
    return [_compare(val, group, resamples) for val, group in by_file.items()]


def _compare(val: str, runs: Sequence[Run], resamples: int) -> Compared:
    samples: dict[tuple[str, str], Sample] = {}
    missing = "" if resamples else "not asked for"
    for run in runs if resamples else ():
        told = scenes_of(run)
        missing = missing or told.missing
        if told.scenes:
            samples |= {(run.name, kind): one for kind, one in _samples(run, told.scenes, resamples).items()}
    aps = {key: mean(sample) for key, sample in samples.items()}
    first = runs[0].name
    differences = {
        (name, kind): difference(sample, samples[first, kind])
        for (name, kind), sample in samples.items()
        if name != first and (first, kind) in samples and sample.resampled.shape == samples[first, kind].resampled.shape
    }
    return Compared(val, tuple(runs), aps, differences, missing)


def _samples(run: Run, scenes: Any, resamples: int) -> dict[str, Sample]:
    """kind -> AP of the scenes as they are, and drawn again; the same draws for every run on them."""
    images = len(scenes.scenes)
    weights = np.concatenate([np.ones((1, images), dtype=np.int64), resample_weights(images, resamples)])
    found = {}
    for kind in KINDS:
        results = run.predictions(kind) if kind in run.numbers else None
        if results:
            values = Matches.of(scenes, results, kind).ap(weights)
            found[kind] = Sample(values[None, None, :1].reshape(1, 1), values[None, None, 1:], SEEDS)
    return found
