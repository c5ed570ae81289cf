"""What RetinaNet and FCOS share: levels, towers, losses and detections at every cell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from mcl.detect.base import Detector, DetectorPlan
from mcl.detect.box_losses import BoxLosses, noted, of_cells
from mcl.detect.dense.settings import DenseSettings
from mcl.nn.parts import HEAD
from mcl.nn.trunk import PyramidBackbone, build_pyramid_backbone

SMALL = 512  # pixels: below, objects are small in cells, and P2 is needed
#: pyramid levels -> (those of the trunk, number of levels in all)
LEVELS_READ = {"p2-p5": (("p2", "p3", "p4", "p5"), 4), "p3-p7": (("p3", "p4", "p5"), 5)}
TOWER_CONVS = 4
GROUPS, LEAST_IN_GROUP = 32, 8


class OneStage(Detector):
    """The protocol on top of torchvision's RetinaNet or FCOS; subclasses derive from one of them too."""

    #: what stands at a cell, for the screen
    unit: ClassVar[str]
    #: whether the box loss of an image is divided by its number of boxes, not by that of all images
    divides_by_image: ClassVar[bool]
    #: whether towers are to start from a trunk's head
    towers_from_head: bool = False

    def losses(
        self, features: Mapping[str, Tensor], canvas: ImageList, targets: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        outputs, anchors, counts = self._predict(features, canvas)
        # Sums over tens of thousands of cells, and boxes of hundreds of pixels: not for bf16.
        with torch.autocast(canvas.tensors.device.type, enabled=False):
            return self.terms(targets, outputs, anchors, counts)

    def losses_and_boxes(
        self, features: Mapping[str, Tensor], canvas: ImageList, targets: Sequence[Mapping[str, Tensor]]
    ) -> tuple[dict[str, Tensor], BoxLosses]:
        with noted(self.head, "compute_loss") as calls:
            losses = self.losses(features, canvas, targets)
        return losses, of_cells(calls[0][0], self.decoded, self.divides_by_image)

    def decoded(self, outputs: Tensor, anchors: Tensor) -> Tensor:
        """Boxes (n, 4) of the box tower's outputs (n, 4) at anchors (n, 4)."""
        raise NotImplementedError

    def terms(
        self,
        targets: Sequence[Mapping[str, Tensor]],
        outputs: Mapping[str, Tensor],
        anchors: list[Tensor],
        counts: list[int],
    ) -> dict[str, Tensor]:
        """torchvision's loss terms.

        Args:
            outputs: of the towers, (N, anchors of all levels, values) in fp32.
            anchors: of each image, (anchors of all levels, 4).
            counts: anchors of each level.
        """
        raise NotImplementedError

    def detections(self, features: Mapping[str, Tensor], canvas: ImageList) -> list[dict[str, Tensor]]:
        outputs, anchors, counts = self._predict(features, canvas)
        by_level = {name: list(output.split(counts, dim=1)) for name, output in outputs.items()}
        return self.postprocess_detections(
            by_level, [list(boxes.split(counts)) for boxes in anchors], canvas.image_sizes
        )

    def postprocess_detections(self, *given: Any) -> list[dict[str, Tensor]]:
        """torchvision's, in the order of an R-CNN's values, which an ONNX file's outputs have."""
        found = super().postprocess_detections(*given)
        return [{name: image[name] for name in ("boxes", "labels", "scores")} for image in found]

    def _predict(
        self, features: Mapping[str, Tensor], canvas: ImageList
    ) -> tuple[dict[str, Tensor], list[Tensor], list[int]]:
        """The towers' outputs and the anchors in fp32, and the number of anchors of each level."""
        levels = list(features.values())
        outputs = {name: output.float() for name, output in self.head(levels).items()}
        anchors = self.anchor_generator(canvas, [level.float() for level in levels])
        each = self.anchor_generator.num_anchors_per_location()
        counts = [n * level.shape[-2] * level.shape[-1] for n, level in zip(each, levels, strict=True)]
        return outputs, anchors, counts

    @property
    def pieces(self) -> tuple[str, ...]:
        return "backbone", *self.backbone.levels

    def towers(self) -> list[tuple[str, str]]:
        """The weight of each of the head's convolutions goes to both towers; norms differ (GroupNorm)."""
        if not self.towers_from_head:
            return []
        ends = {tower: _conv_weights(getattr(self.head, tower).conv) for tower in TOWERS}
        return [
            (f"{HEAD}{i}.0.weight", f"head.{tower}.conv.{name}")
            for tower, names in ends.items()
            for i, name in enumerate(names)
        ]

    def sizes(self) -> str:
        sizes = self.anchor_generator.sizes
        last = "p7" if self.backbone.fpn.extra_blocks else self.backbone.levels[-1]
        return f"{self.backbone.levels[0]} .. {last}, {self.unit} of {sizes[0][0]:.0f} .. {sizes[-1][-1]:.0f} px"


TOWERS = ("classification_head", "regression_head")


def levels_for(settings: DenseSettings, image_size: int) -> tuple[tuple[str, ...], int]:
    """Trunk levels that are read, and the number of levels in all.

    Below 512 px the trunk's own four, P2..P5: an object of an eighth of the image has cells enough only in P2, and P6
    has a cell or none. From 512 px on P3..P7, as for COCO; P6 and P7 come from P5.
    """
    return LEVELS_READ[settings.levels or ("p2-p5" if image_size < SMALL else "p3-p7")]


def first_anchor(image_size: int) -> float:
    """Anchor side at the first level in pixels: ``S / 8`` within 4..32 (32 on COCO, 8 at 64 px)."""
    return min(32.0, max(4.0, image_size / 8))


def backbone_for(plan: DetectorPlan) -> PyramidBackbone:
    """Backbone and pyramid with the levels that are read; P6 and P7 start fresh."""
    levels, count = levels_for(plan.settings, plan.image_size)
    channels = plan.spec.pyramid_channels
    above = LastLevelP6P7(channels, channels) if count > len(levels) else None
    return build_pyramid_backbone(plan.trunk, levels, above, drop_path=plan.drop_path)


def group_norm(channels: int) -> partial[nn.GroupNorm]:
    """GroupNorm as in torchvision's towers: 32 groups; fewer if channels are few, so that a group has 8 at least."""
    return partial(nn.GroupNorm, math.gcd(GROUPS, max(1, channels // LEAST_IN_GROUP), channels))


def kept(settings: DenseSettings) -> dict[str, Any]:
    """Which predictions are kept, as arguments of torchvision's classes."""
    return {
        "score_thresh": settings.score_threshold,
        "nms_thresh": settings.nms_threshold,
        "detections_per_img": settings.detections_per_image,
        "topk_candidates": settings.candidates,
    }


def _conv_weights(tower: nn.Module) -> list[str]:
    """Names of the 3x3 convolutions' weights inside a tower, in order."""
    return [f"{name}.weight" for name, module in tower.named_modules() if isinstance(module, nn.Conv2d)]
