"""Where tiles lie is known, so that it can be learned: a proposal head and a class-agnostic box regressor.

The proposal head is the one of Faster R-CNN (arXiv 1506.01497, section 3.1) under torchvision's names
(``rpn.head.*``), on each canvas's own level; its targets are the tiles' boxes instead of annotated objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import box_iou, sigmoid_focal_loss

from mcl.methods.level_encoder import align_windows
from mcl.methods.losses import at_least_fp32
from mcl.nn.trunk import Trunk

RATIOS = (0.5, 1.0, 2.0)  # of anchors, as detectors have them
LIKE_TILE, UNLIKE_TILE = 0.7, 0.3  # IoU from which an anchor stands for a tile, and below which for none
RARE = 0.01  # objectness that training begins with: most anchors stand for nothing
SHIFT, STRETCH = 0.2, 0.25  # of jittered boxes: share of a side, logarithm of a factor
BETA = 1 / 9  # where the box loss turns from square to linear
HIT = 0.5  # IoU at which a proposal has found a tile
ANCHORS, BOXES = BoxCoder((1.0, 1.0, 1.0, 1.0)), BoxCoder((10.0, 10.0, 5.0, 5.0))


class Localiser(nn.Module):
    """Proposal head and box regressor on a trunk's levels; part of the online network only."""

    def __init__(self, channels: int, window: int) -> None:
        super().__init__()
        self.rpn = nn.ModuleDict({"head": RPNHead(channels, len(RATIOS), conv_depth=2)})
        nn.init.constant_(self.rpn["head"].cls_logits.bias, torch.tensor(RARE).logit().item())
        self.box_pred = nn.Linear(channels * window**2, 4)
        nn.init.normal_(self.box_pred.weight, std=0.01)
        nn.init.zeros_(self.box_pred.bias)

    def forward(
        self, trunk: Trunk, maps: Mapping[int, Tensor], boxes: Mapping[int, Tensor], jittered: Mapping[int, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(0-d loss: mean over scales of objectness + box + refined box; numbers to log).

        Every term is a sum over a fixed number of tiles, so that micro-batches and processes add up to the batch.

        Args:
            trunk: whose head looks into jittered boxes.
            maps: scale (above 1) -> (canvases, C, h, w).
            boxes: scale -> (canvases, tiles, 4) in pixels of the canvas.
            jittered: scale -> of the same shape: boxes that are moved and stretched.
        """
        size, window = trunk.spec.image_size, trunk.spec.window
        like = next(iter(maps.values()))
        boxes, jittered = ({s: b.to(like.device, torch.float32, non_blocking=True) for s, b in given.items()} for given in (boxes, jittered))
        windows = {s: align_windows(found, jittered[s], window, size) for s, found in maps.items()}
        counts = [len(cut) for cut in windows.values()]
        cells = trunk.roi_heads.box_head(torch.cat(list(windows.values())), counts).split(counts)
        rows = []
        for (scale, found), of_scale in zip(maps.items(), cells, strict=True):
            refined = at_least_fp32(self.box_pred(of_scale.flatten(1)))
            rows.append({
                **self._proposals(found, boxes[scale], size // scale, size),
                **_refinement(refined, jittered[scale].flatten(0, 1), boxes[scale].flatten(0, 1)),
            })  # fmt: skip
        means = {name: torch.stack([row[name] for row in rows]).mean() for name in rows[0]}
        loss = means["objectness"] + means["box"] + means["refined"]
        return loss, {f"localise/{name}": value.detach() for name, value in means.items()}

    def _proposals(self, maps: Tensor, boxes: Tensor, anchor: int, size: int) -> dict[str, Tensor]:
        """Objectness and box loss of one scale's canvases, each over the number of tiles; ``recall`` of the best proposals."""
        scores, deltas = (by_anchor(found[0], len(boxes), len(RATIOS)) for found in self.rpn["head"]([maps]))
        scores = scores.squeeze(-1)
        anchors = anchors_of(maps, (anchor,), size).to(deltas.dtype)
        overlaps = box_iou(boxes.flatten(0, 1).to(deltas.dtype), anchors).unflatten(0, boxes.shape[:2])
        best, which = overlaps.max(dim=1)  # (canvases, anchors)
        # The anchor that fits a tile best stands for it, however badly it fits.
        is_tile = (best >= LIKE_TILE) | (overlaps == overlaps.amax(dim=2, keepdim=True)).any(dim=1)
        counted = is_tile | (best < UNLIKE_TILE)
        tiles = boxes.shape[0] * boxes.shape[1]
        focal = sigmoid_focal_loss(scores, is_tile.to(scores.dtype), reduction="none")
        own = boxes.to(deltas.dtype).gather(1, which[..., None].expand(-1, -1, 4))
        wanted = ANCHORS.encode_single(own.flatten(0, 1), anchors.repeat(len(boxes), 1)).unflatten(0, own.shape[:2])
        apart = F.smooth_l1_loss(deltas, wanted, beta=BETA, reduction="none").sum(dim=-1)
        return {
            "objectness": (focal * counted).sum() / tiles,
            "box": (apart * is_tile).sum() / tiles,
            "recall": recall(scores.detach(), deltas.detach(), anchors, boxes.to(deltas.dtype)),
        }


def anchors_of(maps: Tensor, sides: Sequence[float], image_size: int) -> Tensor:
    """Anchors of every cell of a level, as torchvision lays them: (h * w * 3 * sizes, 4) in pixels of the canvas.

    Args:
        maps: (b, C, h, w).
        sides: of the square anchors in pixels; the others have their areas.
    """
    made, stride = AnchorGenerator((tuple(sides),), (RATIOS,)), image_size // maps.shape[-1]
    made.set_cell_anchors(torch.float32, torch.device("cpu"))
    height, width = maps.shape[-2:]
    step = torch.tensor(stride)
    return made.grid_anchors([[height, width]], [[step, step]])[0].to(maps.device, non_blocking=True)


def recall(scores: Tensor, deltas: Tensor, anchors: Tensor, boxes: Tensor) -> Tensor:
    """Share of tiles that one of the proposals with the highest scores overlaps by half; twice as many as tiles count.

    Args:
        scores: (b, A).
        deltas: (b, A, 4).
        anchors: (A, 4).
        boxes: (b, n, 4).
    """
    chosen = scores.topk(min(2 * boxes.shape[1], scores.shape[1]), dim=1).indices  # (b, k)
    offsets = deltas.gather(1, chosen[..., None].expand(-1, -1, 4))
    found = ANCHORS.decode_single(offsets.flatten(0, 1), anchors[chosen].flatten(0, 1)).unflatten(0, chosen.shape)
    hits = [(box_iou(of_canvas, proposals) >= HIT).any(dim=1) for of_canvas, proposals in zip(boxes, found, strict=True)]
    return torch.stack(hits).to(scores.dtype).mean()


def jitter(boxes: Tensor, image_size: int, generator: torch.Generator) -> Tensor:
    """Boxes moved by up to a fifth of their sides and stretched by up to a quarter, within the canvas: (..., 4)."""
    drawn = (2 * torch.rand(boxes.shape, generator=generator) - 1).to(boxes.device, non_blocking=True)
    sides, middle = boxes[..., 2:] - boxes[..., :2], (boxes[..., 2:] + boxes[..., :2]) / 2
    middle = middle + SHIFT * sides * drawn[..., :2]
    half = sides * (STRETCH * drawn[..., 2:]).exp() / 2
    return torch.cat([middle - half, middle + half], dim=-1).clamp(0, image_size)


def _refinement(offsets: Tensor, jittered: Tensor, boxes: Tensor) -> dict[str, Tensor]:
    """Loss of (n, 4) offsets from jittered boxes to (n, 4) tiles; their overlap before and after."""
    jittered, boxes = jittered.to(offsets.dtype), boxes.to(offsets.dtype)
    wanted = BOXES.encode_single(boxes, jittered)
    refined = BOXES.decode_single(offsets.detach(), jittered)
    return {
        "refined": F.smooth_l1_loss(offsets, wanted, beta=BETA, reduction="sum") / len(boxes),
        "overlap": _overlap(refined, boxes).mean(),
        "overlap_before": _overlap(jittered, boxes).mean(),
    }


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes row by row: (n, 4), (n, 4) -> (n,)."""
    shared = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(dim=1)
    areas = sum((c[:, 2:] - c[:, :2]).prod(dim=1) for c in (a, b))
    return shared / (areas - shared)


def by_anchor(found: Tensor, canvases: int, anchors: int) -> Tensor:
    """(b, anchors of a cell * k, h, w) of a head -> (b, h * w * anchors, k) in the order of anchors, in fp32 or better."""
    k = found.shape[1] // anchors
    return at_least_fp32(found.unflatten(1, (anchors, k)).permute(0, 3, 4, 1, 2).reshape(canvases, -1, k))
