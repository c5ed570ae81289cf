"""One vector an image, as methods made for transformers want it: the class token's, else the mean over cells."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from mcl.config.method import TrainedParts
from mcl.methods.features import FeatureMaps
from mcl.nn.backbone import features_of
from mcl.nn.pyramid import LEVELS
from mcl.nn.trunk import Trunk
from mcl.nn.vit import PlainVit

EPSILON = 1e-6  # of the norm, as DINO's, MAE's and MoCo v3's


class ImageVectors(FeatureMaps):
    """Vectors of images, or of a montage's tiles.

    ``backbone``: of a plain transformer its class token (the mean of its cells without one) after a LayerNorm, which is the
    methods' own and no part of the trunk; else the mean of C5. ``backbone+pyramid+head``: of each of P2..P5 the mean of its
    window after the head.

    Args:
        apart: of a plain transformer: tiles of a montage see nothing of each other, and each has a class token.
    """

    def __init__(self, trunk: Trunk, parts: TrainedParts, apart: bool = False) -> None:
        super().__init__(trunk, parts)
        self.apart, plain = apart, isinstance(trunk.backbone.body, PlainVit)
        self.norm = nn.LayerNorm(self.channels, eps=EPSILON) if plain and not self.whole else nn.Identity()

    def forward(self, images: Tensor, tiles: int = 1) -> list[Tensor]:
        """(B, 3, S, S), normalised -> for each of ``names`` (B * s^2, C): of each tile, row by row within a canvas.

        Args:
            tiles: s, tiles a side; 1: of images as a whole.
        """
        body, together = self.trunk.backbone.body, 1 if not self.apart else tiles
        if self.whole:
            features = features_of(body, images, together)
            levels = self.trunk.backbone.fpn.levels(features, dict.fromkeys(range(len(LEVELS)), slice(None)))
            return [self._windows(levels[level], tiles) for level in range(len(LEVELS))]
        if not isinstance(body, PlainVit):
            return [of_tiles(features_of(body, images)[-1], tiles)]
        seen = body(images, together)
        if seen.tokens.shape[1] and together == tiles:
            return [self.norm(seen.tokens)[:, 0]]
        return [of_tiles(self.norm(seen.maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), tiles)]

    def _windows(self, level: Tensor, tiles: int) -> Tensor:
        """(B, C, h, w) -> (B * s^2, C): each tile pooled to a window, the head, the mean."""
        window = max(1, min(level.shape[-1] // tiles, self.trunk.spec.window))
        pooled = adaptive_avg_pool2d(level, tiles * window)
        cut = pooled.unflatten(3, (tiles, window)).unflatten(2, (tiles, window)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
        return self.trunk.roi_heads.box_head(cut).mean(dim=(2, 3))


def of_tiles(maps: Tensor, tiles: int) -> Tensor:
    """(B, C, h, w) -> (B * s^2, C): means over each tile's cells."""
    return torch.flatten(adaptive_avg_pool2d(maps, tiles).permute(0, 2, 3, 1), 0, 2)
