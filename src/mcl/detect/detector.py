"""torchvision's Mask R-CNN and Faster R-CNN in their v2 form, from the shape and weights of a trunk.

v2 form: pyramid and heads with BatchNorm, two convolutions in the proposal head, a box head of four
convolutions and one linear layer. For a ResNet-50 trunk with 256 channels every name and shape is that of
``torchvision.models.detection.maskrcnn_resnet50_fpn_v2``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from mcl.config.finetune import DetectorSettings
from mcl.errors import UserError
from mcl.nn.backbone import STRIDES
from mcl.nn.load_report import LoadReport, match
from mcl.nn.pyramid import LEVELS
from mcl.nn.trunk import TrunkSpec, build_pyramid_backbone

PARTS = ("backbone", "backbone+pyramid", "backbone+pyramid+head")
CANONICAL_LEVEL = 4


def build_detector(
    spec: TrunkSpec,
    num_classes: int,
    masks: bool,
    settings: DetectorSettings,
    image_size: int,
    short_sides: tuple[int, ...] = (),
    long_side: int = 1333,
) -> FasterRCNN:
    """A detector for images of about ``image_size`` pixels (``size_plan`` tells what follows from it).

    Called with images it resizes them itself: to fit ``image_size``, or to the last of ``short_sides``.

    Args:
        spec: shape of the trunk, mean and std of its images.
        num_classes: with the background, as torchvision counts.
        masks: Mask R-CNN, else Faster R-CNN.

    Returns:
        A ``MaskRCNN`` or ``FasterRCNN``; its features are ``p2 .. p5`` and ``pool``.
    """
    plan = size_plan(spec, settings, image_size)
    # Transformers with a fixed input size are built for the detector's.
    backbone = build_pyramid_backbone(replace(spec, image_size=image_size), pool=True)
    box_head = _box_head(plan, spec, settings)  # before the others: parts draw their first weights in this order
    options = {
        **_input_options(spec, image_size, short_sides, long_side),
        **_proposal_options(plan, spec, settings),
        **_box_options(plan, box_head, settings, num_classes),
    }
    if not masks:
        return FasterRCNN(backbone, **options)
    return MaskRCNN(backbone, **options, **_mask_options(plan, spec, num_classes))


def _input_options(
    spec: TrunkSpec, image_size: int, short_sides: tuple[int, ...], long_side: int
) -> dict[str, Any]:
    """How images are normalised, resized and padded."""
    return {
        "min_size": list(short_sides) or image_size,
        "max_size": long_side if short_sides else image_size,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
        # Whole images on one square canvas: all batches have one shape and are padded alike.
        "size_divisible": STRIDES[-1] if short_sides else image_size,
    }


def _proposal_options(plan: dict, spec: TrunkSpec, settings: DetectorSettings) -> dict[str, Any]:
    """Anchors, the proposal head, and how many proposals are kept."""
    ratios = tuple(settings.aspect_ratios)
    anchors = AnchorGenerator(plan["anchors"], (ratios,) * len(plan["anchors"]))
    return {
        "rpn_anchor_generator": anchors,
        "rpn_head": RPNHead(spec.pyramid_channels, anchors.num_anchors_per_location()[0], conv_depth=2),
        "rpn_pre_nms_top_n_train": settings.pre_nms_train,
        "rpn_pre_nms_top_n_test": settings.pre_nms_test,
        "rpn_post_nms_top_n_train": settings.proposals_train,
        "rpn_post_nms_top_n_test": settings.proposals_test,
        "rpn_batch_size_per_image": settings.anchors_per_image,
    }


def _box_head(plan: dict, spec: TrunkSpec, settings: DetectorSettings) -> FastRCNNConvFCHead:
    channels, size = spec.pyramid_channels, plan["roi_size"]
    return FastRCNNConvFCHead(
        (channels, size, size), [channels] * spec.head_convs, [settings.fc_channels], norm_layer=nn.BatchNorm2d
    )


def _box_options(plan: dict, box_head: nn.Module, settings: DetectorSettings, num_classes: int) -> dict[str, Any]:
    """What classifies and refines proposals, and which of the boxes are kept."""
    return {
        "box_roi_pool": _roi_pool(plan["roi_size"], plan["roi_scale"]),
        "box_head": box_head,
        "box_predictor": FastRCNNPredictor(settings.fc_channels, num_classes),
        "box_score_thresh": settings.score_threshold,
        "box_nms_thresh": settings.nms_threshold,
        "box_detections_per_img": settings.detections_per_image,
        "box_batch_size_per_image": settings.boxes_per_image,
    }


def _mask_options(plan: dict, spec: TrunkSpec, num_classes: int) -> dict[str, Any]:
    """What draws a mask in each box."""
    channels = spec.pyramid_channels
    return {
        "mask_roi_pool": _roi_pool(plan["mask_roi_size"], plan["roi_scale"]),
        "mask_head": MaskRCNNHeads(channels, [channels] * 4, 1, norm_layer=nn.BatchNorm2d),
        "mask_predictor": MaskRCNNPredictor(channels, channels, num_classes),
    }


def size_plan(spec: TrunkSpec, settings: DetectorSettings, image_size: int) -> dict:
    """What follows from the image size unless it is set.

    - anchors: sides ``S / 8`` at P2 (32 on COCO's 800 px, 8 at 64 px), doubled per level. In small images an
      object covers few cells, and one size a level leaves many objects without a good anchor: below 512 px
      there are three a level, ``2 ** (0, 1/3, 2/3)`` apart.
    - roi_scale: a box of ``S / 2`` reads P4, so one as wide as the image reads P5, as in pre-training.
    - roi_size: the window the head was pre-trained on, whose borders its convolutions know.
    """
    base = settings.anchor_base or min(32.0, max(4.0, image_size / 8))
    sizes = settings.anchors_per_octave or (3 if image_size < 512 else 1)
    roi_size = settings.roi_size or max(1, spec.window)
    return {
        "anchors": tuple(
            tuple(base * 2 ** (level + i / sizes) for i in range(sizes)) for level in range(len(LEVELS) + 1)
        ),
        "roi_scale": settings.roi_scale or min(224.0, image_size / 2),
        "roi_size": roi_size,
        "mask_roi_size": settings.mask_roi_size or min(14, max(8, 2 * roi_size)),
    }


def load_trunk_into(
    detector: FasterRCNN,
    state: Mapping[str, Tensor],
    parts: str,
    source: str = "trunk",
    allow_partial: bool = False,
) -> LoadReport:
    """Copy the asked-for parts of a trunk, BatchNorm buffers included, into a detector.

    Args:
        state: tensors of a trunk under torchvision's names; projector and predictors never are among them.
        parts: one of ``PARTS``.
        source: what errors call the trunk.

    Raises:
        UserError: nothing fits, or (without ``allow_partial``) a tensor of these parts is missing,
            unexpected or of another shape.
    """
    wanted = detector.state_dict()
    fits, report = match(wanted, state, prefixes_of(parts, detector))
    for prefix in prefixes_of(parts, detector):
        if not any(name.startswith(prefix) for name in fits):
            raise UserError(
                f"{source}: --parts {parts}: no tensor {prefix}* of it fits: {' | '.join(report.lines(2))}"
            )
    report.require_complete(source, allow_partial)
    detector.load_state_dict(fits, strict=False)
    return report


def prefixes_of(parts: str, detector: FasterRCNN) -> tuple[str, ...]:
    """Beginnings of the names of the tensors of ``parts``; of the box head only its convolutions."""
    if parts not in PARTS:
        raise UserError(f"--parts: no {parts!r}; there are: {', '.join(PARTS)}")
    pieces = parts.split("+")
    found = ["backbone.body."]
    if "pyramid" in pieces:
        found.append("backbone.fpn.")
    if "head" in pieces:
        found.extend(f"roi_heads.box_head.{i}." for i in range(head_convs(detector)))
    return tuple(found)


def head_convs(detector: FasterRCNN) -> int:
    """Number of convolution blocks at the start of the box head (the trunk's part of it)."""
    return next(i for i, module in enumerate(detector.roi_heads.box_head) if isinstance(module, nn.Flatten))


def _roi_pool(size: int, scale: float) -> MultiScaleRoIAlign:
    pool = MultiScaleRoIAlign(list(LEVELS), size, sampling_ratio=2, canonical_scale=scale)
    # torchvision guesses the strides from its first batch and keeps the guess; small images, padded to the
    # canvas, make it guess wrong. They are known here.
    pool.scales = [1 / stride for stride in STRIDES]
    pool.map_levels = initLevelMapper(2, 5, canonical_scale=scale, canonical_level=CANONICAL_LEVEL)
    return pool
