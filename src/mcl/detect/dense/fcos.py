"""FCOS in torchvision's form (towers with GroupNorm, centre-ness beside the box), on a trunk's backbone and pyramid.

Towers, P6 and P7 have the names and shapes of ``torchvision.models.detection.fcos_resnet50_fpn``; the pyramid is the
trunk's, with BatchNorm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.models.detection._utils import BoxLinearCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead

from mcl.detect.base import DetectorPlan
from mcl.detect.dense.one_stage import (
    TOWER_CONVS,
    OneStage,
    backbone_for,
    first_anchor,
    group_norm,
    kept,
    levels_for,
)
from mcl.detect.dense.settings import FcosSettings
from mcl.nn.backbone import STRIDES
from mcl.nn.parts import LEVELS


class Fcos(OneStage, FCOS):
    """Features are the levels it reads, ``p2 .. p5`` or ``p3 .. p7``."""

    unit: ClassVar = "points"
    divides_by_image: ClassVar = False

    @classmethod
    def build(cls, plan: DetectorPlan) -> Fcos:
        settings = plan.settings
        levels, count = levels_for(settings, plan.image_size)
        sizes = point_sizes(settings, plan.image_size)
        stride = STRIDES[LEVELS.index(levels[0])]
        detector = cls(
            backbone_for(plan),
            plan.num_classes,
            anchor_generator=AnchorGenerator(tuple((size,) for size in sizes), ((1.0,),) * count),
            head=_Head(plan.spec.pyramid_channels, plan.num_classes),
            # torchvision counts the radius in sizes of a point
            center_sampling_radius=settings.centre_radius * stride / sizes[0],
            **kept(settings),
            **plan.transform(),
        )
        detector.towers_from_head = settings.towers_from_head
        return detector

    def terms(
        self,
        targets: Sequence[Mapping[str, Tensor]],
        outputs: Mapping[str, Tensor],
        anchors: list[Tensor],
        counts: list[int],
    ) -> dict[str, Tensor]:
        return self.compute_loss(targets, outputs, anchors, counts)

    def decoded(self, outputs: Tensor, anchors: Tensor) -> Tensor:
        return self.head.box_coder.decode(outputs, anchors)


class _Head(FCOSHead):
    """torchvision's, for any number of channels."""

    def __init__(self, channels: int, num_classes: int) -> None:
        nn.Module.__init__(self)
        norm = group_norm(channels)
        self.box_coder = BoxLinearCoder(normalize_by_size=True)
        self.classification_head = FCOSClassificationHead(channels, 1, num_classes, TOWER_CONVS, norm_layer=norm)
        self.regression_head = FCOSRegressionHead(channels, 1, TOWER_CONVS, norm_layer=norm)


def point_sizes(settings: FcosSettings, image_size: int) -> list[float]:
    """Size of a point of each level in pixels, doubled per level.

    A point answers for boxes whose farthest side is 4 to 8 of its sizes away (the first level also for nearer ones, the
    last also for farther ones). A quarter of ``first_anchor``: the stride, 8, at P3 on COCO; 2 at P2 at 64 px, where
    P5 then answers for boxes as wide as the image. Even, since torchvision rounds a point's half side.
    """
    first = settings.point_size or max(2.0, 2.0 * round(first_anchor(image_size) / 8))
    return [first * 2**level for level in range(levels_for(settings, image_size)[1])]
