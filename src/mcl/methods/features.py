"""What image-level methods read of an image: the backbone's last map, or a window of every pyramid level."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from mcl.config.method import TrainedParts
from mcl.nn.backbone import STRIDES, channels_of, features_of
from mcl.nn.pyramid import LEVELS
from mcl.nn.trunk import Trunk


class FeatureMaps(nn.Module):
    """Maps of full-size images, a loss for each: all that a method trains of the trunk.

    ``backbone``: C5 alone, as the papers have it. ``backbone+pyramid+head``: each of P2..P5, pooled to the window that
    a tile has in MCL (7x7 cells at 224 px), then through the shared head's convolutions, so that every part that MCL
    trains is trained without montages too.

    Attributes:
        names: of the maps, for what is logged.
        channels: of every map.
        pieces: of the trunk that are trained (``mcl.nn.parts``).
    """

    def __init__(self, trunk: Trunk, parts: TrainedParts) -> None:
        super().__init__()
        self.trunk, self.whole = trunk, parts != "backbone"
        self.names = LEVELS if self.whole else ("c5",)
        self.channels = trunk.out_channels if self.whole else channels_of(trunk.backbone.body)[-1]
        self.pieces = ("backbone", *LEVELS, "head") if self.whole else ("backbone",)
        for module in () if self.whole else (trunk.backbone.fpn, trunk.roi_heads):
            module.requires_grad_(False)  # handed on as they are; the trunk file says so

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 3, S, S), normalised -> a map (N, C, w, w) for each of ``names``."""
        if not self.whole:
            return [features_of(self.trunk.backbone.body, images)[-1]]
        window = max(1, images.shape[-1] // STRIDES[-1])
        levels = [adaptive_avg_pool2d(level, window) for level in self.trunk(images).values()]
        return [self.trunk.roi_heads.box_head(level) for level in levels]
