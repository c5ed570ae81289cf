"""What selective search finds is learned to be found: proposals and boxes, as a detector learns annotated objects.

After DETReg (arXiv 2106.04550) and AlignDet (2307.11077), with a Faster R-CNN's two stages (1506.01497) on the trunk's
own levels and head: anchors on all levels, and windows of boxes from the level of their size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import box_iou, sigmoid_focal_loss

from mcl.methods.level_encoder import align_windows
from mcl.methods.losses import at_least_fp32
from mcl.methods.mcl.localise import (
    ANCHORS,
    BETA,
    BOXES,
    LIKE_TILE,
    RARE,
    RATIOS,
    UNLIKE_TILE,
    anchors_of,
    by_anchor,
)
from mcl.nn.pyramid import LEVELS
from mcl.nn.trunk import Trunk, TrunkSpec

SIZES = 3  # anchors of a ratio on a level, 2 ** (0, 1/3, 2/3) apart, as detectors of small images have them
OBJECT = 0.5  # IoU with a region from which a box shows it
SHOWN = 0.5  # share of a region's area that a view must show
LEAST = 4.0  # pixels of a side below which a region is none


@dataclass(frozen=True)
class Regions:
    """Where a view's regions lie, and the boxes that are judged.

    Attributes:
        images: which of the view's images they are of.
        boxes: (images, K, 4) left, top, right, bottom in pixels of the view.
        there: (images, K) which of them the view shows.
        judged: (images, 2 K, 4) boxes near them, then boxes anywhere.
    """

    images: slice
    boxes: Tensor
    there: Tensor
    judged: Tensor


class RegionHead(nn.Module):
    """Proposal head, and class-agnostic objectness and box of a window; part of the online network only."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        spec, channels = trunk.spec, trunk.out_channels
        self.rpn = nn.ModuleDict({"head": RPNHead(channels, SIZES * len(RATIOS), conv_depth=2)})
        nn.init.constant_(self.rpn["head"].cls_logits.bias, torch.tensor(RARE).logit().item())
        self.box_pred = nn.Linear(channels * spec.window**2, 1 + 4)
        nn.init.normal_(self.box_pred.weight, std=0.01)
        nn.init.zeros_(self.box_pred.bias)

    def forward(self, trunk: Trunk, maps: Mapping[str, Tensor], regions: Regions) -> tuple[Tensor, dict[str, Tensor]]:
        """(0-d loss: objectness and box of anchors, objectness and box of windows; numbers to log).

        Every term is a sum over a fixed number of regions, so that micro-batches and processes add up to the batch.

        Args:
            trunk: whose head looks into boxes.
            maps: p2 .. p5 -> (images, C, h, w) of full-size views.
            regions: of these views.
        """
        terms = {**self._proposals(maps, regions, trunk.spec.image_size), **self._windows(trunk, maps, regions)}
        loss = sum(terms[name] for name in ("objectness", "box", "object", "refined"))
        return loss, {f"regions/{name}": value.detach() for name, value in terms.items()}

    def _proposals(self, maps: Mapping[str, Tensor], regions: Regions, size: int) -> dict[str, Tensor]:
        images, count = regions.there.shape
        found = [self.rpn["head"]([level]) for level in maps.values()]
        scores, deltas = (torch.cat([by_anchor(row[i][0], images, SIZES * len(RATIOS)) for row in found], dim=1) for i in range(2))
        scores = scores.squeeze(-1)
        anchors = torch.cat([
            anchors_of(level, anchor_sides(number, size), size) for number, level in enumerate(maps.values())
        ]).to(deltas.dtype)  # fmt: skip
        best, which, is_region = match(regions, anchors[None].expand(images, -1, -1))
        counted = is_region | (best < UNLIKE_TILE)
        focal = sigmoid_focal_loss(scores, is_region.to(scores.dtype), reduction="none")
        own = regions.boxes.to(deltas.dtype).gather(1, which[..., None].expand(-1, -1, 4))
        wanted = ANCHORS.encode_single(own.flatten(0, 1), anchors.repeat(images, 1)).unflatten(0, own.shape[:2])
        apart = F.smooth_l1_loss(deltas, wanted, beta=BETA, reduction="none").sum(dim=-1)
        each = images * count
        return {
            "objectness": (focal * counted).sum() / each,
            "box": torch.where(is_region, apart, 0).sum() / each,
        }

    def _windows(self, trunk: Trunk, maps: Mapping[str, Tensor], regions: Regions) -> dict[str, Tensor]:
        judged = regions.judged
        windows = windows_of(maps, judged, trunk.spec)
        cells = trunk.roi_heads.box_head(windows, [len(windows)])
        told = at_least_fp32(self.box_pred(cells.flatten(1))).unflatten(0, judged.shape[:2])
        logits, offsets = told[..., 0], told[..., 1:]
        overlaps = overlap(judged, regions)
        best, which = overlaps.max(dim=2)
        shows = best >= OBJECT
        own = regions.boxes.to(offsets.dtype).gather(1, which[..., None].expand(-1, -1, 4))
        wanted = BOXES.encode_single(own.flatten(0, 1), judged.to(offsets.dtype).flatten(0, 1)).unflatten(0, own.shape[:2])
        apart = F.smooth_l1_loss(offsets, wanted, beta=BETA, reduction="none").sum(dim=-1)
        right = ((logits > 0) == shows).float().mean()
        return {
            "object": F.binary_cross_entropy_with_logits(logits, shows.to(logits.dtype)),
            "refined": torch.where(shows, apart, 0).sum() / shows.numel(),
            "object_accuracy": right,
            "object_share": shows.float().mean(),
        }


def windows_of(maps: Mapping[str, Tensor], boxes: Tensor, spec: TrunkSpec) -> Tensor:
    """Every box from the level of its size: p2 .. p5 -> (images, C, h, w), (images, n, 4) -> (images * n, C, w, w).

    A box as wide as the image reads the level of full-size images, one of half its side the level below (equation 1 of
    the FPN paper, arXiv 1612.03144). All boxes are cut out of all levels: so no shape hangs on where they are.
    """
    sides = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1).sqrt() / spec.image_size
    levels = (spec.level_of(1) + (sides + 1e-6).log2().floor()).clamp(0, len(LEVELS) - 1).flatten()
    cut = [align_windows(level, boxes, spec.window, spec.image_size) for level in maps.values()]
    return sum(found * (levels == number)[:, None, None, None] for number, found in enumerate(cut))


def anchor_sides(level: int, image_size: int) -> tuple[float, ...]:
    """Sides in pixels of a level's square anchors (0 is P2), as detectors have them: S / 8 at P2, doubled per level."""
    base = min(32.0, max(4.0, image_size / 8))
    return tuple(base * 2 ** (level + i / SIZES) for i in range(SIZES))


def overlap(boxes: Tensor, regions: Regions) -> Tensor:
    """IoU of (images, n, 4) boxes with each image's regions: (images, n, K); -1 where a region is not there."""
    found = torch.stack([box_iou(own.float(), of_image.float()) for own, of_image in zip(boxes, regions.boxes, strict=True)])
    return torch.where(regions.there[:, None, :], found, -1.0)


def match(regions: Regions, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(best IoU, the region it is with, whether the anchor stands for it), each (images, A)."""
    overlaps = overlap(anchors, regions)
    best, which = overlaps.max(dim=2)
    # The anchor that fits a region best stands for it, however badly it fits.
    fits_best = (overlaps == overlaps.amax(dim=1, keepdim=True)) & regions.there[:, None, :]
    return best, torch.where(fits_best.any(dim=2), fits_best.int().argmax(dim=2), which), (best >= LIKE_TILE) | fits_best.any(dim=2)


def regions_in_view(boxes: Tensor, count: Tensor, crops: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Regions of images -> (boxes in pixels of their views, which of them the views show).

    Args:
        boxes: (N, K, 4) fractions of the image.
        count: (N,) how many of the K there are.
        crops: (N, 5) left, top, right, bottom as fractions, and 1 if mirrored (``batch["crops"]``).
        size: of the view in pixels.
    """
    corner, span = crops[:, None, :2].repeat(1, 1, 2), (crops[:, 2:4] - crops[:, :2])[:, None].repeat(1, 1, 2)
    left, top, right, bottom = ((boxes - corner) / span * size).unbind(dim=-1)
    mirrored = crops[:, 4:5] > 0
    left, right = torch.where(mirrored, size - right, left), torch.where(mirrored, size - left, right)
    whole = torch.stack([left, top, right, bottom], dim=-1)
    cut = whole.clamp(0, size)
    sides = cut[..., 2:] - cut[..., :2]
    share = sides.prod(dim=-1) / (whole[..., 2:] - whole[..., :2]).prod(dim=-1).clamp(min=1e-6)
    there = torch.arange(boxes.shape[1], device=boxes.device) < count[:, None]
    return cut, there & (share >= SHOWN) & (sides >= LEAST).all(dim=-1)


def boxes_anywhere(shape: tuple[int, ...], size: int, generator: torch.Generator) -> Tensor:
    """(*shape, 4) boxes of all sizes and places in a view of ``size`` pixels, at least an eighth of it a side."""
    drawn = torch.rand(*shape, 4, generator=generator)
    sides = size * (1 / 8) ** drawn[..., :2]
    corner = (size - sides) * drawn[..., 2:]
    return torch.cat([corner, corner + sides], dim=-1)
