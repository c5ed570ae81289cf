"""Faster R-CNN in torchvision's v2 form, from the shape of a trunk.

v2 form: pyramid and heads with BatchNorm, two convolutions in the proposal head, a box head of four
convolutions and one linear layer. For a ResNet-50 trunk with 256 channels every name and shape is that of
``torchvision.models.detection.fasterrcnn_resnet50_fpn_v2``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.poolers import initLevelMapper

from mcl.detect.base import Detector, DetectorPlan
from mcl.detect.box_losses import BoxLosses, noted, of_roi_heads
from mcl.detect.rcnn.settings import FasterRcnnSettings
from mcl.nn.backbone import STRIDES
from mcl.nn.parts import LEVELS, PIECES
from mcl.nn.trunk import TrunkSpec, build_pyramid_backbone, norm_of

CANONICAL_LEVEL = 4


class FasterRcnn(Detector, FasterRCNN):
    """Features are ``p2 .. p5`` and ``pool``; the box head's convolutions are the trunk's head."""

    @classmethod
    def build(cls, plan: DetectorPlan) -> FasterRcnn:
        sizes = size_plan(plan.spec, plan.settings, plan.image_size)
        backbone = build_pyramid_backbone(plan.trunk, above=LastLevelMaxPool(), drop_path=plan.drop_path)
        return cls(backbone, **plan.transform(), **cls.heads(plan, sizes))

    @classmethod
    def heads(cls, plan: DetectorPlan, sizes: dict[str, Any]) -> dict[str, Any]:
        """What torchvision's class takes besides the backbone; ``sizes``: see ``size_plan``."""
        box_head = _box_head(sizes, plan)  # before the others: parts draw their first weights in this order
        return {**_proposals(sizes, plan), **_boxes(sizes, box_head, plan)}

    def losses(
        self, features: Mapping[str, Tensor], canvas: ImageList, targets: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        # Anchors take the features' number format, and bf16 holds their corners to a few pixels only.
        features = {name: level.float() for name, level in features.items()}
        proposals, proposal_losses = self.rpn(canvas, features, targets)
        _, head_losses = self.roi_heads(features, proposals, canvas.image_sizes, targets)
        return {**proposal_losses, **head_losses}

    def losses_and_boxes(
        self, features: Mapping[str, Tensor], canvas: ImageList, targets: Sequence[Mapping[str, Tensor]]
    ) -> tuple[dict[str, Tensor], BoxLosses]:
        roi = self.roi_heads
        with noted(roi, "select_training_samples") as samples, noted(roi.box_predictor, "forward") as predicted:
            losses = self.losses(features, canvas, targets)
        (_, drawn), (_, (_, box_regression)) = samples[0], predicted[0]
        return losses, of_roi_heads(drawn, box_regression, targets)

    def detections(self, features: Mapping[str, Tensor], canvas: ImageList) -> list[dict[str, Tensor]]:
        proposals, _ = self.rpn(canvas, features)
        return self.roi_heads(features, proposals, canvas.image_sizes)[0]

    @property
    def pieces(self) -> tuple[str, ...]:
        return PIECES

    @property
    def head_convs(self) -> int:
        return next(i for i, block in enumerate(self.roi_heads.box_head) if isinstance(block, nn.Flatten))

    def trunk_modules(self) -> list[nn.Module]:
        return [self.backbone, *list(self.roi_heads.box_head)[: self.head_convs]]

    def sizes(self) -> str:
        return f"RoI windows of {self.roi_heads.box_roi_pool.output_size[0]}"


def size_plan(spec: TrunkSpec, settings: FasterRcnnSettings, image_size: int) -> dict[str, Any]:
    """What follows from the image size unless it is set.

    - anchors: sides ``S / 8`` at P2 (32 on COCO's 800 px, 8 at 64 px), doubled per level. In small images an
      object covers few cells, and one size a level leaves many objects without a good anchor: below 512 px
      there are three a level, ``2 ** (0, 1/3, 2/3)`` apart.
    - roi_scale: a box of ``S / 2`` reads P4, so one as wide as the image reads P5, as in pre-training; twice that for
      every level finer that the trunk was read from.
    - roi_size: the window the head was pre-trained on, whose borders its convolutions know.
    """
    base = settings.anchor_base or min(32.0, max(4.0, image_size / 8))
    sizes = settings.anchors_per_octave or (3 if image_size < 512 else 1)
    return {
        "anchors": tuple(
            tuple(base * 2 ** (level + i / sizes) for i in range(sizes)) for level in range(len(LEVELS) + 1)
        ),
        "roi_scale": settings.roi_scale or min(224.0, image_size / 2) * 2**spec.finer,
        "roi_size": settings.roi_size or max(1, spec.window),
    }


def roi_pool(size: int, scale: float) -> MultiScaleRoIAlign:
    """Windows of ``size`` cells; a box of ``scale`` pixels reads P4."""
    pool = MultiScaleRoIAlign(list(LEVELS), size, sampling_ratio=2, canonical_scale=scale)
    # torchvision guesses the strides from its first batch and keeps the guess; small images, padded to the
    # canvas, make it guess wrong. They are known here.
    pool.scales = [1 / stride for stride in STRIDES]
    pool.map_levels = initLevelMapper(2, 5, canonical_scale=scale, canonical_level=CANONICAL_LEVEL)
    return pool


def _box_head(sizes: dict[str, Any], plan: DetectorPlan) -> FastRCNNConvFCHead:
    channels, size = plan.spec.pyramid_channels, sizes["roi_size"]
    convs, width = [channels] * plan.spec.head_convs, [plan.settings.fc_channels]
    return FastRCNNConvFCHead((channels, size, size), convs, width, norm_layer=norm_of(plan.spec))


def _proposals(sizes: dict[str, Any], plan: DetectorPlan) -> dict[str, Any]:
    """Anchors, the proposal head, and how many proposals are kept."""
    settings = plan.settings
    ratios = tuple(settings.aspect_ratios)
    anchors = AnchorGenerator(sizes["anchors"], (ratios,) * len(sizes["anchors"]))
    return {
        "rpn_anchor_generator": anchors,
        "rpn_head": RPNHead(plan.spec.pyramid_channels, anchors.num_anchors_per_location()[0], conv_depth=2),
        "rpn_pre_nms_top_n_train": settings.pre_nms_train,
        "rpn_pre_nms_top_n_test": settings.pre_nms_test,
        "rpn_post_nms_top_n_train": settings.proposals_train,
        "rpn_post_nms_top_n_test": settings.proposals_test,
        "rpn_batch_size_per_image": settings.anchors_per_image,
    }


def _boxes(sizes: dict[str, Any], box_head: nn.Module, plan: DetectorPlan) -> dict[str, Any]:
    """What classifies and refines proposals, and which of the boxes are kept."""
    settings = plan.settings
    return {
        "box_roi_pool": roi_pool(sizes["roi_size"], sizes["roi_scale"]),
        "box_head": box_head,
        "box_predictor": FastRCNNPredictor(settings.fc_channels, plan.num_classes),
        "box_score_thresh": settings.score_threshold,
        "box_nms_thresh": settings.nms_threshold,
        "box_detections_per_img": settings.detections_per_image,
        "box_batch_size_per_image": settings.boxes_per_image,
    }
