"""Features of objects: cut out of the map that fits their size, then through the detector's head."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import roi_align

from mcl.methods.features import FeatureMaps
from mcl.nn.backbone import features_of

#: sides in pixels of a 224 px view from which on an object is of P3, P4, P5 (section 3.2)
THRESHOLDS = (48, 96, 192)
REFERENCE = 224
SAMPLES = 2  # points in a row of a cell, as in torchvision's detectors


class ObjectFeatures(FeatureMaps):
    """Windows of objects as a detector's head sees them; of C5 where pyramid and head are not trained."""

    def forward(self, images: Tensor, boxes: Tensor) -> Tensor:  # type: ignore[override]
        """(N, 3, S, S), normalised, and (N, K, 4) fractions of the views -> (N * K, C), means over the windows."""
        if not self.whole:
            return self._cut_out(features_of(self.trunk.backbone.body, images)[-1], boxes).mean(dim=(2, 3))
        levels = self.level_of(boxes, images.shape[-1]).flatten()
        windows = 0.0
        # Every object is cut out of every level, and those of its own kept: shapes do not hang on where objects are.
        for level, found in enumerate(self.trunk(images).values()):
            windows = windows + self._cut_out(found, boxes) * (levels == level)[:, None, None, None]
        return self.trunk.roi_heads.box_head(windows).mean(dim=(2, 3))

    def level_of(self, boxes: Tensor, side: int) -> Tensor:
        """(N, K) 0..3 for P2..P5: by the root of an object's area, in views of the trunk's image size."""
        scale = side * REFERENCE / self.trunk.spec.image_size
        pixels = ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])).sqrt() * scale
        return sum((pixels >= threshold).long() for threshold in THRESHOLDS)

    def _cut_out(self, maps: Tensor, boxes: Tensor) -> Tensor:
        """(N, C, h, w), (N, K, 4) -> (N * K, C, window, window)."""
        n, k, _ = boxes.shape
        height, width = maps.shape[-2:]
        cells = boxes.to(maps.dtype) * torch.tensor([width, height, width, height], dtype=maps.dtype).to(maps.device, non_blocking=True)
        images = torch.arange(n, dtype=maps.dtype, device=maps.device).repeat_interleave(k)
        rois = torch.cat([images[:, None], cells.flatten(0, 1)], dim=1)
        return roi_align(maps, rois, self.trunk.spec.window, sampling_ratio=SAMPLES, aligned=True)
