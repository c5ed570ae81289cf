"""Every detector once. A new one is a file and a line here."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcl.config.detector import DetectorSettings

if TYPE_CHECKING:
    from mcl.detect.base import Detector, DetectorPlan


@dataclass(frozen=True)
class Entry:
    """Where a detector's settings lie (read without torch), and where its class."""

    settings: str
    detector: str


DETECTORS: dict[str, Entry] = {
    "mask-rcnn": Entry("mcl.detect.rcnn.settings:MaskRcnnSettings", "mcl.detect.rcnn.mask_rcnn:MaskRcnn"),
    "faster-rcnn": Entry("mcl.detect.rcnn.settings:FasterRcnnSettings", "mcl.detect.rcnn.faster_rcnn:FasterRcnn"),
    "retinanet": Entry("mcl.detect.dense.settings:RetinanetSettings", "mcl.detect.dense.retinanet:Retinanet"),
    "fcos": Entry("mcl.detect.dense.settings:FcosSettings", "mcl.detect.dense.fcos:Fcos"),
}
AUTO = "auto"  # one of the R-CNNs, which the annotations decide


def names() -> tuple[str, ...]:
    """What can be asked for: every detector, and the choice between the R-CNNs."""
    return AUTO, *DETECTORS


def settings_of(name: str) -> type[DetectorSettings]:
    """A detector's settings; does not import torch."""
    return _named("mcl.detect.rcnn.settings:AutoSettings" if name == AUTO else DETECTORS[name].settings)


def build_detector(plan: DetectorPlan) -> Detector:
    """A fresh detector of the kind that the plan's settings are for."""
    return _named(DETECTORS[plan.settings.name].detector).build(plan)


def _named(place: str):
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
