"""Python code that builds an exported detector from torchvision's public parts: what its state dict is for."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torchvision.models as models
from torchvision.models.detection import FasterRCNN

from mcl.interop.torchvision.resnet_shape import ResnetShape

CODE = '''"""Builds the detector of {weights} from torchvision alone (written by mcl export).

    detector = build(); detector.load_state_dict(torch.load("{weights}", weights_only=True)); detector.eval()

Images: RGB tensors in 0..1, any size. Labels: {labels}.
"""

import torchvision.models as models
from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

CHANNELS, CLASSES = {channels}, {classes}
LEVELS = ["p2", "p3", "p4", "p5"]


def pool(size):
    roi_pool = MultiScaleRoIAlign(LEVELS, size, sampling_ratio=2, canonical_scale={roi_scale})
    roi_pool.scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    roi_pool.map_levels = initLevelMapper(2, 5, canonical_scale={roi_scale}, canonical_level=4)
    return roi_pool


def build():
    resnet = {resnet}
    layers = {{"layer1": "p2", "layer2": "p3", "layer3": "p4", "layer4": "p5"}}
    backbone = BackboneWithFPN(resnet, layers, {widths}, CHANNELS, norm_layer=nn.BatchNorm2d)
    anchors = AnchorGenerator({anchors}, {ratios})
    head = FastRCNNConvFCHead((CHANNELS, {roi_size}, {roi_size}), [CHANNELS] * {convs}, [{fc}], norm_layer=nn.BatchNorm2d)
    return {kind}(
        backbone,
        min_size={min_size}, max_size={max_size}, size_divisible={divisible}, image_mean={mean}, image_std={std},
        rpn_anchor_generator=anchors, rpn_head=RPNHead(CHANNELS, anchors.num_anchors_per_location()[0], conv_depth={rpn_convs}),
        rpn_pre_nms_top_n_test={pre_nms}, rpn_post_nms_top_n_test={proposals},
        box_roi_pool=pool({roi_size}), box_head=head, box_predictor=FastRCNNPredictor({fc}, CLASSES),
        box_score_thresh={score}, box_nms_thresh={nms}, box_detections_per_img={most},{masks}
    )
'''
MASKS = """
        mask_roi_pool=pool({mask_roi_size}), mask_head=MaskRCNNHeads(CHANNELS, [CHANNELS] * 4, 1, norm_layer=nn.BatchNorm2d),
        mask_predictor=MaskRCNNPredictor(CHANNELS, CHANNELS, CLASSES),"""


def builder_source(detector: FasterRCNN, plan: Any, weights: str) -> str:
    """The code for a detector of ours, on a plain ResNet (``detector_format.fit``).

    Args:
        plan: its ``DetectorPlan`` (class names, settings of testing).
        weights: file name of the state dict.
    """
    body = detector.backbone.body.state_dict()
    shape, transform, roi = ResnetShape.of(body), detector.transform, detector.roi_heads
    counts = ", ".join(map(str, shape.counts))
    block = "BasicBlock" if shape.block == "basic" else "Bottleneck"
    resnet = f"models.ResNet(models.resnet.{block}, [{counts}], groups={shape.groups}, width_per_group={shape.width})"
    if shape.name in models.list_models(module=models):
        resnet = f'models.get_model("{shape.name}", weights=None)'
    masks = MASKS.format(mask_roi_size=roi.mask_roi_pool.output_size[0]) if plan.masks else ""
    anchors = detector.rpn.anchor_generator
    return CODE.format(
        weights=_harmless(weights), labels=_harmless(", ".join(f"{i} {name}" for i, name in enumerate(plan.names, 1))),
        channels=plan.spec.pyramid_channels, classes=len(plan.names) + 1, roi_scale=roi.box_roi_pool.canonical_scale, resnet=resnet,
        widths=shape.widths, ratios=_plain(anchors.aspect_ratios), anchors=_plain(anchors.sizes), rpn_convs=len(detector.rpn.head.conv),
        roi_size=roi.box_roi_pool.output_size[0], convs=plan.spec.head_convs, fc=plan.settings.fc_channels,
        kind="MaskRCNN" if plan.masks else "FasterRCNN", min_size=tuple(transform.min_size), max_size=transform.max_size,
        divisible=transform.size_divisible, mean=list(transform.image_mean), std=list(transform.image_std),
        pre_nms=plan.settings.pre_nms_test, proposals=plan.settings.proposals_test,
        score=roi.score_thresh, nms=roi.nms_thresh, most=roi.detections_per_img, masks=masks,
    )  # fmt: skip


def _harmless(text: str) -> str:
    """Names of classes and files go into a docstring; they must not end it."""
    return " ".join(text.replace("\\", "/").replace('"', "'").split())


def _plain(rows: Any) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in rows)


def load_builder(path: Path) -> Callable[[], FasterRCNN]:
    """The ``build`` function of a file written from ``builder_source``."""
    spec = importlib.util.spec_from_file_location("mcl_exported_detector", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build
