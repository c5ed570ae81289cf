"""A detector's forward pass in pieces: images, canvas, features, losses or detections.

torchvision's own ``forward`` does all at once and resizes without anti-aliasing; here images arrive at their
final size, and features can come from a store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from mcl.detect.base import Detector
from mcl.detect.box_losses import BoxLosses


def to_canvas(detector: Detector, images: Sequence[Tensor], device: torch.device) -> ImageList:
    """uint8 images (3, h, w) -> one normalised, zero-padded batch (n, 3, H, W) and the images' sizes."""
    transform = detector.transform
    scaled = [transform.normalize(image.to(device).float() / 255) for image in images]
    batch = transform.batch_images(scaled, transform.size_divisible)
    return ImageList(batch, [tuple(image.shape[-2:]) for image in images])


def losses_of(
    detector: Detector,
    features: Mapping[str, Tensor],
    canvas: ImageList,
    targets: Sequence[Mapping[str, Any]],
) -> dict[str, Tensor]:
    """Losses of the features of ``detector.backbone``; modules must be in training mode."""
    return detector.losses(features, canvas, _beside(features, targets))


def losses_and_boxes_of(
    detector: Detector,
    features: Mapping[str, Tensor],
    canvas: ImageList,
    targets: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, Tensor], BoxLosses]:
    """``losses_of``, and the box regression loss of every sampled box."""
    return detector.losses_and_boxes(features, canvas, _beside(features, targets))


def _beside(features: Mapping[str, Tensor], targets: Sequence[Mapping[str, Any]]) -> list[dict[str, Tensor]]:
    """The tensors of the targets, where the features are."""
    device = next(iter(features.values())).device
    return [{k: v.to(device) for k, v in target.items() if isinstance(v, Tensor)} for target in targets]


def detect(
    detector: Detector, canvas: ImageList, original_sizes: Sequence[tuple[int, int]]
) -> list[dict[str, Tensor]]:
    """Detections of a canvas in pixels of the original images; modules must be in eval mode.

    Returns:
        For every image ``boxes`` (n, 4), ``labels`` (n,), ``scores`` (n,), with masks ``masks`` (n, 1, H, W)
        as probabilities at the original size.
    """
    found = detector.detections(detector.backbone(canvas.tensors), canvas)
    return detector.transform.postprocess(found, canvas.image_sizes, list(original_sizes))


def canvas_of(sizes: Sequence[tuple[int, int]], height: int, width: int, device: torch.device) -> ImageList:
    """A canvas without pixels, for features that are already computed (anchors only need its shape)."""
    return ImageList(torch.empty(1, device=device).expand(len(sizes), 3, height, width), list(sizes))
