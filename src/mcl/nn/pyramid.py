"""The feature pyramid of torchvision, computed only where it is needed."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from mcl.nn.parts import LEVELS


class UpperPyramid(FeaturePyramidNetwork):
    """A pyramid without its first levels, whose tensors keep the names that they have in a whole one.

    Args:
        missing: number of levels left out: with 1 the first one is P3, under ``inner_blocks.1`` and ``layer_blocks.1``.
    """

    def __init__(
        self, channels: Sequence[int], out_channels: int, above: ExtraFPNBlock | None, missing: int
    ) -> None:
        super().__init__(list(channels), out_channels, above, norm_layer=nn.BatchNorm2d)
        self.inner_blocks = _named_from(missing, self.inner_blocks)
        self.layer_blocks = _named_from(missing, self.layer_blocks)

    def get_result_from_inner_blocks(self, x: Tensor, idx: int) -> Tensor:
        """Lateral convolution of the level at place ``idx`` of those that are there."""
        return list(self.inner_blocks.values())[idx](x)

    def get_result_from_layer_blocks(self, x: Tensor, idx: int) -> Tensor:
        """Output convolution of the level at place ``idx`` of those that are there."""
        return list(self.layer_blocks.values())[idx](x)


def _named_from(first: int, blocks: nn.ModuleList) -> nn.ModuleDict:
    return nn.ModuleDict({str(level): block for level, block in enumerate(blocks, start=first)})


def build_pyramid(
    channels: Sequence[int], out_channels: int, above: ExtraFPNBlock | None = None
) -> FeaturePyramidNetwork:
    """1x1 laterals and 3x3 outputs without bias, BatchNorm after each, no activation; Xavier-uniform weights.

    Args:
        channels: of C2..C5, or of the last of them.
        out_channels: of every level.
        above: torchvision's block that makes further levels from the last one (a detector's); keeps its own weights.
    """
    missing = len(LEVELS) - len(channels)
    if missing:
        pyramid = UpperPyramid(channels, out_channels, above, missing)
    else:
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
