"""Names and shapes of Detectron2's own R-CNN on ResNet and FPN, for checks where Detectron2 is not installed.

Written from its configuration reference (MODEL.RESNETS, MODEL.FPN, MODEL.ROI_BOX_HEAD, MODEL.ROI_MASK_HEAD) and the
names listed in method.md (Transfer); nothing here is derived from our own modules.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mcl.interop.torchvision.resnet_shape import ResnetShape

CLASSES, ANCHORS = 80, 3
NORM = ("weight", "bias", "running_mean", "running_var")


def rcnn_shapes(shape: ResnetShape, channels: int, convs: int, pooled: int) -> dict[str, Tensor]:
    """State dict, without values, of ``GeneralizedRCNN`` with the YAML that goes with an export.

    Args:
        shape: the ResNet (RESNETS.DEPTH, NUM_GROUPS, WIDTH_PER_GROUP).
        channels: FPN.OUT_CHANNELS and ROI_BOX_HEAD.CONV_DIM.
        convs: ROI_BOX_HEAD.NUM_CONV.
        pooled: ROI_BOX_HEAD.POOLER_RESOLUTION.
    """
    sizes = _resnet(shape)
    for level, width in zip((2, 3, 4, 5), shape.widths, strict=True):
        sizes |= _conv(f"backbone.fpn_lateral{level}", channels, width, 1)
        sizes |= _conv(f"backbone.fpn_output{level}", channels, channels, 3)
    for i in range(convs):
        sizes |= _conv(f"roi_heads.box_head.conv{i + 1}", channels, channels, 3)
    sizes |= _plain("roi_heads.box_head.fc1", 1024, channels * pooled**2)
    sizes |= _plain("roi_heads.box_predictor.cls_score", CLASSES + 1, 1024)
    sizes |= _plain("roi_heads.box_predictor.bbox_pred", 4 * CLASSES, 1024)
    sizes |= _plain("proposal_generator.rpn_head.conv", channels, channels, 3, 3)
    sizes |= _plain("proposal_generator.rpn_head.objectness_logits", ANCHORS, channels, 1, 1)
    sizes |= _plain("proposal_generator.rpn_head.anchor_deltas", 4 * ANCHORS, channels, 1, 1)
    for i in range(4):
        sizes |= _conv(f"roi_heads.mask_head.mask_fcn{i + 1}", 256, channels if i == 0 else 256, 3)
    sizes["roi_heads.mask_head.deconv.weight"], sizes["roi_heads.mask_head.deconv.bias"] = (
        (256, 256, 2, 2),
        (256,),
    )
    sizes |= _plain("roi_heads.mask_head.predictor", CLASSES, 256, 1, 1)
    return {name: torch.empty(size, device="meta") for name, size in sizes.items()}


def _resnet(shape: ResnetShape) -> dict[str, tuple[int, ...]]:
    sizes = _conv("backbone.bottom_up.stem.conv1", 64, 3, 7)
    before = 64
    for stage, (blocks, width) in enumerate(zip(shape.counts, shape.widths, strict=True), start=2):
        inner = shape.groups * shape.width * 2 ** (stage - 2)
        for i in range(blocks):
            block = f"backbone.bottom_up.res{stage}.{i}"
            if shape.block == "basic":
                sizes |= _conv(f"{block}.conv1", width, before, 3) | _conv(f"{block}.conv2", width, width, 3)
            else:
                sizes |= _conv(f"{block}.conv1", inner, before, 1)
                sizes |= _conv(f"{block}.conv2", inner, inner // shape.groups, 3)
                sizes |= _conv(f"{block}.conv3", width, inner, 1)
            if before != width:
                sizes |= _conv(f"{block}.shortcut", width, before, 1)
            before = width
    return sizes


def _conv(name: str, outputs: int, inputs: int, kernel: int) -> dict[str, tuple[int, ...]]:
    norms = {f"{name}.norm.{leaf}": (outputs,) for leaf in NORM}
    return {
        f"{name}.weight": (outputs, inputs, kernel, kernel),
        **norms,
        f"{name}.norm.num_batches_tracked": (),
    }


def _plain(name: str, *size: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": size, f"{name}.bias": size[:1]}
