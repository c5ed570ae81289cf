"""Mask R-CNN: Faster R-CNN with a head that draws a mask in each box.

For a ResNet-50 trunk with 256 channels every name and shape is that of
``torchvision.models.detection.maskrcnn_resnet50_fpn_v2``.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from mcl.detect.base import DetectorPlan
from mcl.detect.rcnn.faster_rcnn import FasterRcnn, roi_pool

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
            "mask_head": MaskRCNNHeads(channels, [channels] * MASK_CONVS, 1, norm_layer=nn.BatchNorm2d),
            "mask_predictor": MaskRCNNPredictor(channels, channels, plan.num_classes),
        }


def mask_window(roi_size: int) -> int:
    """Cells of a mask's window for a box's: twice as many, as on COCO (7 and 14), within 8..14."""
    return min(14, max(8, 2 * roi_size))
