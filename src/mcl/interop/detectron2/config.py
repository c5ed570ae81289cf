"""Detectron2's YAML for an exported trunk. Keys as in its configuration reference; complete without a ``_BASE_``."""

from __future__ import annotations

from typing import Any

from mcl.interop.torchvision.resnet_shape import ResnetShape
from mcl.interop.writing.source import TrunkSource


def mask_rcnn_config(source: TrunkSource, shape: ResnetShape, depth: int) -> dict[str, Any]:
    """Mask R-CNN with a 4conv1fc box head (``MASK_ON: False``: Faster R-CNN), the 1x recipe of method.md."""
    spec, model = source.spec, _common(source, shape, depth)
    model["RESNETS"]["OUT_FEATURES"] = ["res2", "res3", "res4", "res5"]
    model["META_ARCHITECTURE"], model["MASK_ON"] = "GeneralizedRCNN", True
    model["BACKBONE"]["NAME"] = "build_resnet_fpn_backbone"
    model["FPN"]["IN_FEATURES"] = ["res2", "res3", "res4", "res5"]
    model |= {
        "ANCHOR_GENERATOR": {"SIZES": [[32], [64], [128], [256], [512]], "ASPECT_RATIOS": [[0.5, 1.0, 2.0]]},
        "RPN": {
            "IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"], "PRE_NMS_TOPK_TRAIN": 2000, "PRE_NMS_TOPK_TEST": 1000,
            "POST_NMS_TOPK_TRAIN": 1000, "POST_NMS_TOPK_TEST": 1000,
        },
        "ROI_HEADS": {"NAME": "StandardROIHeads", "IN_FEATURES": ["p2", "p3", "p4", "p5"]},
        "ROI_BOX_HEAD": {
            "NAME": "FastRCNNConvFCHead", "NUM_CONV": spec.head_convs, "CONV_DIM": spec.pyramid_channels, "NUM_FC": 1,
            "FC_DIM": 1024, "NORM": "SyncBN", "POOLER_RESOLUTION": source.window,
        },
        "ROI_MASK_HEAD": {"NAME": "MaskRCNNConvUpsampleHead", "NUM_CONV": 4, "NORM": "SyncBN", "POOLER_RESOLUTION": 14},
    }  # fmt: skip
    return _with_recipe(model, lr=0.02)


def retinanet_config(source: TrunkSource, shape: ResnetShape, depth: int) -> dict[str, Any]:
    """RetinaNet on P3..P7: takes backbone and pyramid (P2's two convolutions and the box head stay unused)."""
    model = _common(source, shape, depth)
    model["RESNETS"]["OUT_FEATURES"] = ["res3", "res4", "res5"]
    model["META_ARCHITECTURE"] = "RetinaNet"
    model["BACKBONE"]["NAME"] = "build_retinanet_resnet_fpn_backbone"
    model["FPN"]["IN_FEATURES"] = ["res3", "res4", "res5"]
    sizes = [[round(base * 2 ** (third / 3), 4) for third in range(3)] for base in (32, 64, 128, 256, 512)]
    model["ANCHOR_GENERATOR"] = {"SIZES": sizes}
    model["RETINANET"] = {"IOU_THRESHOLDS": [0.4, 0.5], "IOU_LABELS": [0, -1, 1], "SMOOTH_L1_LOSS_BETA": 0.0}
    return _with_recipe(model, lr=0.01)


def _common(source: TrunkSource, shape: ResnetShape, depth: int) -> dict[str, Any]:
    spec = source.spec
    return {
        "META_ARCHITECTURE": "",
        "PIXEL_MEAN": [round(255 * value, 3) for value in spec.mean],
        "PIXEL_STD": [round(255 * value, 3) for value in spec.std],
        "BACKBONE": {"NAME": "", "FREEZE_AT": 0},
        "RESNETS": {
            "DEPTH": depth, "NORM": "SyncBN", "STRIDE_IN_1X1": False, "NUM_GROUPS": shape.groups, "WIDTH_PER_GROUP": shape.width,
            "RES2_OUT_CHANNELS": shape.widths[0],
        },
        "FPN": {"IN_FEATURES": [], "NORM": "SyncBN", "OUT_CHANNELS": spec.pyramid_channels},
    }  # fmt: skip


def _with_recipe(model: dict[str, Any], lr: float) -> dict[str, Any]:
    return {
        "MODEL": model,
        "INPUT": {"FORMAT": "RGB", "MIN_SIZE_TRAIN": [640, 672, 704, 736, 768, 800]},
        "DATASETS": {"TRAIN": ["coco_2017_train"], "TEST": ["coco_2017_val"]},
        "SOLVER": {"IMS_PER_BATCH": 16, "BASE_LR": lr, "STEPS": [60000, 80000], "MAX_ITER": 90000},
        "TEST": {"PRECISE_BN": {"ENABLED": True}},
        "VERSION": 2,
    }
