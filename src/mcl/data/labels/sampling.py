"""Orders that show rare classes more often: by repeat factors (LVIS), or every class equally often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from mcl.data.labels.coco_json import CocoScenes
from mcl.data.loading.order import Key, Order, Shuffled
from mcl.randomness import STREAM_ORDER, generator_for

Classes = Sequence[frozenset[int]]  # of each image, the classes of its objects


def classes_of(scenes: CocoScenes) -> list[frozenset[int]]:
    """Category ids of every scene's objects, crowds left out."""
    return [frozenset(thing.category for thing in scene.objects if not thing.crowd) for scene in scenes.scenes]


def sampling_order(scenes: CocoScenes, sampling: str, threshold: float, seed: int) -> Order:
    """The order of training.

    Args:
        sampling: ``uniform``, ``class_balanced`` or ``repeat_factor``.
        threshold: of the repeat factors.
    """
    if sampling == "uniform":
        return Shuffled(len(scenes.scenes), seed)
    classes = classes_of(scenes)
    if sampling == "class_balanced":
        return ClassBalanced(tuple(classes), seed)
    return RepeatFactor(tuple(repeat_factors(classes, threshold).tolist()), seed)


def repeat_factors(classes: Classes, threshold: float) -> np.ndarray:
    """How often each image is shown in a pass, at least once: the rule of LVIS (Gupta et al. 2019, appendix B.2).

    A class in a share f of the images has r = max(1, sqrt(t / f)), an image the largest r of its classes.

    Args:
        threshold: t, in (0, 1]; classes in a larger share of the images are not repeated.

    Returns:
        float64 (images,), at least 1; an image without objects has 1.
    """
    images_with = Counter(category for present in classes for category in present)
    of_class = {c: max(1.0, (threshold * len(classes) / count) ** 0.5) for c, count in images_with.items()}
    return np.array([max((of_class[c] for c in present), default=1.0) for present in classes])


@dataclass(frozen=True)
class RepeatFactor:
    """Image i comes floor(r_i) or ceil(r_i) times in a pass, r_i times on average over passes.

    The fractions are rounded by systematic sampling along a random permutation, so that all passes are equally long
    (rounding each by itself, passes differ in length, and the pass of a step could only be found by counting).
    """

    factors: tuple[float, ...]
    seed: int

    @cached_property
    def samples(self) -> int:
        """Of a pass."""
        return int(sum(self.factors))

    def keys(self, epoch: int) -> list[Key]:
        """A pass: repeats of an image are numbered, and everything is shuffled."""
        generator = generator_for(STREAM_ORDER, self.seed, epoch)
        along = torch.randperm(len(self.factors), generator=generator).numpy()
        ends = np.cumsum(np.array(self.factors)[along]) + float(torch.rand((), generator=generator, dtype=torch.float64))
        counts = np.diff(np.floor(ends).astype(np.int64), prepend=0)
        repeated = [_key(epoch, image, n) for image, count in zip(along.tolist(), counts.tolist(), strict=True) for n in range(count)]
        order = torch.randperm(len(repeated), generator=generator).tolist()
        return [repeated[i] for i in order]


@dataclass(frozen=True)
class ClassBalanced:
    """Classes take turns, each with the next image that has it (class-aware sampling: Shen et al. 2016).

    A pass has as many samples as there are images. Images without objects are not shown.
    """

    classes: tuple[frozenset[int], ...]
    seed: int

    @property
    def samples(self) -> int:
        """Of a pass."""
        return len(self.classes)

    @cached_property
    def images_with(self) -> dict[int, list[int]]:
        """Class -> images, in the order of the ids."""
        found: dict[int, list[int]] = {}
        for image, present in enumerate(self.classes):
            for category in present:
                found.setdefault(category, []).append(image)
        return dict(sorted(found.items()))

    def keys(self, epoch: int) -> list[Key]:
        """A pass: a permutation of the classes again and again; each class goes through its images in a random order."""
        generator = generator_for(STREAM_ORDER, self.seed, epoch)
        turns = list(self.images_with.values())
        images = [[own[i] for i in torch.randperm(len(own), generator=generator).tolist()] for own in turns]
        taken, seen, order = [0] * len(turns), Counter[int](), []
        while len(order) < self.samples:
            for turn in torch.randperm(len(turns), generator=generator).tolist():
                image = images[turn][taken[turn] % len(images[turn])]
                taken[turn] += 1
                order.append(_key(epoch, image, seen[image]))
                seen[image] += 1
        return order[: self.samples]


def _key(epoch: int, image: int, repeat: int) -> Key:
    """The first time as without repeats."""
    return (epoch, image, repeat) if repeat else (epoch, image)
