"""Names and shapes of MMDetection 3's Mask R-CNN, for checks where MMDetection is not installed."""

from __future__ import annotations

import torch
from torch import Tensor

from mcl.interop.torchvision.resnet_shape import ResnetShape
from mcl.interop.writing.source import TrunkSource

HEAD_CONVS = 4


def rcnn_shapes(shape: ResnetShape, source: TrunkSource) -> dict[str, Tensor]:
    """Names and shapes of MMDetection's Mask R-CNN with FPN(norm_cfg=BN) and Shared4Conv1FCBBoxHead (80 classes)."""
    channels, window = source.spec.pyramid_channels, source.window
    sizes = {f"backbone.{name}": tuple(tensor.shape) for name, tensor in _resnet_of_docs(shape).items()}
    for i, width in enumerate(shape.widths):
        sizes |= _module(f"neck.lateral_convs.{i}", channels, width, 1) | _module(
            f"neck.fpn_convs.{i}", channels, channels, 3
        )
    for i in range(HEAD_CONVS):
        sizes |= _module(f"roi_head.bbox_head.shared_convs.{i}", channels, channels, 3)
    linear = {
        "roi_head.bbox_head.shared_fcs.0": (1024, channels * window**2), "roi_head.bbox_head.fc_cls": (81, 1024),
        "roi_head.bbox_head.fc_reg": (320, 1024), "rpn_head.rpn_conv": (channels, channels, 3, 3),
        "rpn_head.rpn_cls": (3, channels, 1, 1), "rpn_head.rpn_reg": (12, channels, 1, 1),
        "roi_head.mask_head.conv_logits": (80, 256, 1, 1),
    }  # fmt: skip
    for name, size in linear.items():
        sizes |= {f"{name}.weight": size, f"{name}.bias": size[:1]}
    for i in range(4):
        sizes |= _module(f"roi_head.mask_head.convs.{i}", 256, channels if i == 0 else 256, 3)
    sizes |= {
        "roi_head.mask_head.upsample.weight": (256, 256, 2, 2),
        "roi_head.mask_head.upsample.bias": (256,),
    }
    return {name: torch.empty(size, device="meta") for name, size in sizes.items()}


def _resnet_of_docs(shape: ResnetShape) -> dict[str, Tensor]:
    # MMDetection's ResNet documents that it keeps torchvision's names (its base config loads torchvision://resnet50).
    with torch.device("meta"):
        network = shape.build()
    return {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("fc.")}


def _module(name: str, outputs: int, inputs: int, kernel: int) -> dict[str, tuple[int, ...]]:
    norms = {f"{name}.bn.{leaf}": (outputs,) for leaf in ("weight", "bias", "running_mean", "running_var")}
    return {
        f"{name}.conv.weight": (outputs, inputs, kernel, kernel),
        **norms,
        f"{name}.bn.num_batches_tracked": (),
    }
