"""The feature pyramid of torchvision, computed only where it is needed."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from mcl.nn.parts import LEVELS as LEVELS


def build_pyramid(
    channels: Sequence[int], out_channels: int, above: ExtraFPNBlock | None = None
) -> FeaturePyramidNetwork:
    """1x1 laterals and 3x3 outputs without bias, BatchNorm after each, no activation; Xavier-uniform weights.

    Args:
        channels: of the feature maps, the largest first; C2..C5, or the last of them.
        out_channels: of every level.
        above: torchvision's block that makes further levels from the last one (a detector's); keeps its own weights.
    """
    pyramid = FeaturePyramidNetwork(list(channels), out_channels, above, norm_layer=nn.BatchNorm2d)
    for module in [*pyramid.inner_blocks.modules(), *pyramid.layer_blocks.modules()]:
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
    return pyramid


def lateral(pyramid: FeaturePyramidNetwork, level: int, feature: Tensor) -> Tensor:
    """Lateral convolution of ``level`` (0 is P2): (N, C_level, h, w) -> (N, C, h, w)."""
    return pyramid.inner_blocks[level](feature)


def output(pyramid: FeaturePyramidNetwork, level: int, merged: Tensor) -> Tensor:
    """Output convolution of ``level``: (N, C, h, w) -> P_level of the same shape."""
    return pyramid.layer_blocks[level](merged)


def add_top_down(lateral_map: Tensor, above: Tensor) -> Tensor:
    """Add the level above, enlarged by repetition: (N, C, 2h, 2w) + (N, C, h, w)."""
    return lateral_map + F.interpolate(above, size=lateral_map.shape[-2:], mode="nearest")
