"""RetinaNet in torchvision's v2 form (towers with GroupNorm, GIoU loss), on a trunk's backbone and pyramid.

Towers have the names and shapes of ``torchvision.models.detection.retinanet_resnet50_fpn_v2``. The pyramid is the
trunk's, with BatchNorm; P6 and P7 come from P5, which is pre-trained, where torchvision takes C5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead

from mcl.detect.base import DetectorPlan
from mcl.detect.dense.one_stage import (
    OneStage,
    backbone_for,
    first_anchor,
    group_norm,
    kept,
    levels_for,
)
from mcl.detect.dense.settings import RetinanetSettings


class Retinanet(OneStage, RetinaNet):
    """Features are the levels it reads, ``p2 .. p5`` or ``p3 .. p7``."""

    unit: ClassVar = "anchors"
    divides_by_image: ClassVar = True

    @classmethod
    def build(cls, plan: DetectorPlan) -> Retinanet:
        sizes = anchor_sizes(plan.settings, plan.image_size)
        anchors = AnchorGenerator(sizes, (tuple(plan.settings.aspect_ratios),) * len(sizes))
        channels = plan.spec.pyramid_channels
        backbone = backbone_for(plan)
        head = RetinaNetHead(
            channels, anchors.num_anchors_per_location()[0], plan.num_classes, norm_layer=group_norm(channels)
        )
        head.regression_head._loss_type = "giou"  # as torchvision's builder of the v2 form sets it
        detector = cls(
            backbone, plan.num_classes, anchor_generator=anchors, head=head, **kept(plan.settings), **plan.transform()
        )  # fmt: skip
        detector.towers_from_head = plan.settings.towers_from_head
        return detector

    def terms(
        self,
        targets: Sequence[Mapping[str, Tensor]],
        outputs: Mapping[str, Tensor],
        anchors: list[Tensor],
        counts: list[int],
    ) -> dict[str, Tensor]:
        return self.compute_loss(targets, outputs, anchors)

    def decoded(self, outputs: Tensor, anchors: Tensor) -> Tensor:
        return self.head.regression_head.box_coder.decode_single(outputs, anchors)


def anchor_sizes(settings: RetinanetSettings, image_size: int) -> tuple[tuple[float, ...], ...]:
    """Anchor sides of each level in pixels: ``first_anchor`` at the first level, doubled per level.

    Three sizes a level, ``2 ** (0, 1/3, 2/3)`` apart and cut to whole pixels as in torchvision (32, 40, 50).
    """
    base, number = settings.anchor_base or first_anchor(image_size), settings.anchors_per_octave
    sides = [base * 2**level for level in range(levels_for(settings, image_size)[1])]
    return tuple((side, *(float(int(side * 2 ** (i / number))) for i in range(1, number))) for side in sides)
