"""Split the sources of composed scenes: what test, validation, labelled and unlabeled pictures show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mcl.config.data import DataComposeSettings
from mcl.errors import UserError
from mcl.sets.cutouts import Source, Sources
from mcl.sets.distinct import Findings
from mcl.sets.find import Found

LEAST_PER_SPLIT = 2  # cut-outs of a class in each split
# Random streams: default_rng([seed, SPLIT]) for the test's share, with one more number for the others, so that what
# the test shows depends on none of them. generate.py has the other codes.
SPLIT, VAL, LABELLED = 4, 1, 2


@dataclass
class Splits:
    """Sources by use. No cut-out and no photo is in two of train, val and test.

    Attributes:
        train: of labelled training scenes.
        test: of test scenes.
        unlabeled: of unlabeled pictures: those of ``train`` and, if asked for, more cut-outs.
        val: of validation scenes, if there are any.
    """

    train: Sources
    test: Sources
    unlabeled: Sources
    val: Sources | None = None

    def named(self) -> dict[str, Sources]:
        """The splits there are, by name."""
        splits = {"train": self.train, "val": self.val, "test": self.test, "unlabeled": self.unlabeled}
        return {name: sources for name, sources in splits.items() if sources is not None}


def split_sources(found: Found, settings: DataComposeSettings, findings: Findings) -> Splits:
    """Disjoint test, validation and training sources; classes too small for that are dropped with a note.

    Raises:
        UserError: no class is large enough, or too few photos.
    """
    names = ["train", "val", "test"] if settings.val_scenes else ["train", "test"]
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    if len(found.photos) < len(names):
        have = "one distinct photo" if len(found.photos) == 1 else f"{len(found.photos)} distinct photos"
        raise UserError(f"--backgrounds: {have} only; {listed} need different ones, so at least {len(names)}")
    large = _large_enough(found.cutouts, len(names), listed, findings)
    rest, test = _divide(Sources(large, found.photos), settings, "test")
    val = None
    if settings.val_scenes:
        rest, val = _divide(rest, settings, "val")
    labelled = Sources(_part(rest.cutouts, settings), rest.photos)
    extra = {name: cutouts for name, cutouts in found.extra.items() if cutouts}
    return Splits(labelled, test, Sources(rest.cutouts | extra, rest.photos), val)


def _large_enough(
    cutouts: dict[str, list[Source]], splits: int, listed: str, findings: Findings
) -> dict[str, list[Source]]:
    large = {}
    for name, members in cutouts.items():
        if len(members) < splits * LEAST_PER_SPLIT:
            findings.notes.append(
                f"class {name!r} dropped: {len(members)} distinct cut-outs, but {listed} need "
                f"{LEAST_PER_SPLIT} different ones each"
            )
        else:
            large[name] = members
    if not large:
        raise UserError(f"--cutouts: no class is left; {findings.notes[-1]}")
    return large


def _divide(sources: Sources, settings: DataComposeSettings, split: str) -> tuple[Sources, Sources]:
    """What is left, and the share of ``split``."""
    if split == "test":
        rng, fraction = np.random.default_rng([settings.seed, SPLIT]), settings.test_fraction
        keep = 2 if settings.val_scenes else 1  # splits that share the rest
    else:
        rng, keep = np.random.default_rng([settings.seed, SPLIT, VAL]), 1
        fraction = settings.val_fraction / (1 - settings.test_fraction)  # of all, not of what the test left
    left, taken = Sources({}, []), Sources({}, [])
    for name, cutouts in sources.cutouts.items():
        left.cutouts[name], taken.cutouts[name] = _split(
            cutouts, fraction, LEAST_PER_SPLIT, keep * LEAST_PER_SPLIT, rng
        )
    left.photos, taken.photos = _split(sources.photos, fraction, 1, keep, rng)
    return left, taken


def _split(
    items: list[Source], fraction: float, least: int, keep: int, rng: np.random.Generator
) -> tuple[list[Source], list[Source]]:
    """The rest (at least ``keep``), and ``fraction`` of the items (at least ``least``)."""
    taken = int(np.clip(round(fraction * len(items)), least, len(items) - keep))
    order = rng.permutation(len(items))
    return [items[i] for i in sorted(order[taken:])], [items[i] for i in sorted(order[:taken])]


def _part(cutouts: dict[str, list[Source]], settings: DataComposeSettings) -> dict[str, list[Source]]:
    """``labelled_fraction`` of each class, one at least; a larger fraction holds what a smaller one does."""
    rng = np.random.default_rng([settings.seed, SPLIT, LABELLED])
    part = {}
    for name, members in cutouts.items():
        count = max(1, round(settings.labelled_fraction * len(members)))
        part[name] = [members[i] for i in sorted(rng.permutation(len(members))[:count])]
    return part
