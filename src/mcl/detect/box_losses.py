"""The box regression loss of every sampled box, beside the sum that torchvision gives.

torchvision adds the losses up inside its heads. What goes in is noted on the way (``noted``), and the terms are computed a
second time, without gradients: a few operations on the boxes that are trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss


@dataclass(frozen=True)
class BoxLosses:
    """Of every box that box regression was trained on in a step.

    Attributes:
        areas: (n,) of the object's box, in pixels of the input.
        losses: (n,) in the proportions of torchvision's loss term.
    """

    areas: Tensor
    losses: Tensor


@contextmanager
def noted(owner: nn.Module, method: str) -> Iterator[list[Any]]:
    """Within the block, what ``owner.method`` is called with and what it gives: a list of pairs (arguments, result)."""
    calls: list[Any] = []
    original = getattr(owner, method)

    def noting(*arguments: Any, **named: Any) -> Any:
        result = original(*arguments, **named)
        calls.append((arguments, result))
        return result

    own = vars(owner)  # methods lie in the class: what is put here comes before them, and is taken away again
    before = own.get(method)
    own[method] = noting
    try:
        yield calls
    finally:
        del own[method]
        if before is not None:
            own[method] = before


@torch.no_grad()
def of_roi_heads(
    samples: tuple[Any, ...], box_regression: Tensor, targets: Sequence[Mapping[str, Tensor]]
) -> BoxLosses:
    """Smooth L1 of the boxes of an R-CNN's head (torchvision's ``fastrcnn_loss``).

    Args:
        samples: what ``RoIHeads.select_training_samples`` gave.
        box_regression: (boxes, 4 x classes) of the predictor.
    """
    _, matched, labels, regression_targets = samples
    labels, wanted = torch.cat(labels), torch.cat(regression_targets)
    objects = torch.cat([_objects(target["boxes"], places) for target, places in zip(targets, matched, strict=True)])
    there = (labels > 0).nonzero()[:, 0]
    guesses = box_regression.float().reshape(len(labels), -1, 4)[there, labels[there]]
    losses = F.smooth_l1_loss(guesses, wanted[there], beta=1 / 9, reduction="none").sum(dim=1)
    return BoxLosses(_areas(objects[there]), losses)


@torch.no_grad()
def of_cells(arguments: tuple[Any, ...], decode: Any, by_image: bool) -> BoxLosses:
    """GIoU loss of the boxes of RetinaNet and FCOS.

    Args:
        arguments: of the head's ``compute_loss``: targets, outputs, anchors, matches of each image.
        decode: (outputs (n, 4), anchors (n, 4)) -> boxes (n, 4).
        by_image: whether each image's losses are divided by its number of boxes (RetinaNet), or all by that of all.
    """
    targets, outputs, anchors, matches = arguments
    areas, losses = [], []
    for target, output, places, matched in zip(targets, outputs["bbox_regression"], anchors, matches, strict=True):
        there = (matched >= 0).nonzero()[:, 0]
        objects = target["boxes"][matched[there]]
        each = generalized_box_iou_loss(decode(output[there], places[there]), objects, reduction="none")
        areas.append(_areas(objects))
        losses.append(each / max(1, len(there)) if by_image else each)
    return BoxLosses(torch.cat(areas), torch.cat(losses))


def _objects(boxes: Tensor, places: Tensor) -> Tensor:
    """Boxes at these places; zeros in an image without objects."""
    return boxes[places] if len(boxes) else boxes.new_zeros(len(places), 4)


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
