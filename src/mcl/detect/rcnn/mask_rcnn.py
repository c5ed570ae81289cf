"""Mask R-CNN: Faster R-CNN with a head that draws a mask in each box.

For a ResNet-50 trunk with 256 channels every name and shape is that of
``torchvision.models.detection.maskrcnn_resnet50_fpn_v2``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import fastrcnn_loss, maskrcnn_loss

from mcl.detect.base import DetectorPlan
from mcl.detect.rcnn.faster_rcnn import FasterRcnn, roi_pool
from mcl.nn.trunk import norm_of

MASK_CONVS = 4


class MaskRcnn(FasterRcnn, MaskRCNN):
    """Also gives ``masks`` (n, 1, h, w) as probabilities."""

    finds: ClassVar = ("bbox", "segm")

    @classmethod
    def heads(cls, plan: DetectorPlan, sizes: dict[str, Any]) -> dict[str, Any]:
        channels = plan.spec.pyramid_channels
        size = plan.settings.mask_roi_size or mask_window(sizes["roi_size"])
        return {
            **super().heads(plan, sizes),
            "mask_roi_pool": roi_pool(size, sizes["roi_scale"]),
            "mask_head": MaskRCNNHeads(channels, [channels] * MASK_CONVS, 1, norm_layer=norm_of(plan.spec)),
            "mask_predictor": MaskRCNNPredictor(channels, channels, plan.num_classes),
        }

    def losses(
        self, features: Mapping[str, Tensor], canvas: ImageList, targets: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """As torchvision's; proposals of objects whose mask nobody drew (``mask_known`` false) teach no mask."""
        features = {name: level.float() for name, level in features.items()}
        proposals, losses = self.rpn(canvas, features, targets)
        roi = self.roi_heads
        proposals, matches, labels, offsets = roi.select_training_samples(proposals, targets)
        found = roi.box_predictor(roi.box_head(roi.box_roi_pool(features, proposals, canvas.image_sizes)))
        classes, boxes = fastrcnn_loss(*found, labels, offsets)
        shown = [_drawn(*one) for one in zip(labels, matches, targets, strict=True)]
        inside = [boxes_of[kept] for boxes_of, kept in zip(proposals, shown, strict=True)]
        matched = [match[kept] for match, kept in zip(matches, shown, strict=True)]
        mask = self._mask_loss(features, canvas, targets, inside, matched)
        return {**losses, "loss_classifier": classes, "loss_box_reg": boxes, "loss_mask": mask}

    def _mask_loss(
        self, features: Mapping[str, Tensor], canvas: ImageList, targets: Sequence[Mapping[str, Tensor]],
        proposals: list[Tensor], matches: list[Tensor],
    ) -> Tensor:  # fmt: skip
        roi = self.roi_heads
        if not any(map(len, proposals)):  # BatchNorm knows no mean of nothing
            return sum(p.sum() for part in (roi.mask_head, roi.mask_predictor) for p in part.parameters()) * 0.0
        windows = roi.mask_roi_pool(features, proposals, canvas.image_sizes)
        logits = roi.mask_predictor(roi.mask_head(windows))
        masks, labels = [t["masks"] for t in targets], [t["labels"] for t in targets]
        return maskrcnn_loss(logits, proposals, masks, labels, matches)


def _drawn(labels: Tensor, matches: Tensor, target: Mapping[str, Tensor]) -> Tensor:
    """Places of the proposals that hold an object with a mask."""
    objects = torch.where(labels > 0)[0]
    return objects[target["mask_known"][matches[objects]]] if "mask_known" in target else objects


def mask_window(roi_size: int) -> int:
    """Cells of a mask's window for a box's: twice as many, as on COCO (7 and 14), within 8..14."""
    return min(14, max(8, 2 * roi_size))
