"""The images on which most went wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mcl.detect.analysis.matches import FALSE, ImageMatches


@dataclass(frozen=True)
class Wrong:
    """What is wrong on an image: ids of annotations that were missed, and false detections (COCO results), best first."""

    image: int
    missed: list[int]
    false: list[dict]

    @property
    def count(self) -> int:
        """Missed and false together."""
        return len(self.missed) + len(self.false)


def worst_images(images: Iterable[ImageMatches], score: float, most: int) -> list[Wrong]:
    """Those with most missed objects and false detections, worst first; images without a mistake are left out.

    Args:
        images: matched by class.
        score: of the detections that count, at least.
        most: images at most.
    """
    found = []
    for image in images:
        image = image.sure(score)
        taken = set(image.taken.tolist())
        missed = [thing["id"] for i, thing in enumerate(image.truth) if i not in taken]
        false = [result for result, t in zip(image.found, image.taken, strict=True) if t == FALSE]
        found.append(Wrong(image.image, missed, false))
    return sorted((wrong for wrong in found if wrong.count), key=lambda wrong: -wrong.count)[:most]
