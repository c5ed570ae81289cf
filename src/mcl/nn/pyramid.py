"""Pyramids: P2..P5 from a backbone's maps, and of each level only what is asked for.

Both kinds fulfil one contract, ``Pyramid``: torchvision's feature pyramid, and ViTDet's simple one for backbones with a
single map. A level's tensors are under ``inner_blocks.{i}`` (lateral) and ``layer_blocks.{i}`` (output) in both.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation, FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from mcl.nn.parts import LEVELS


class Pyramid(Protocol):
    """What a level-matched encoder asks of a pyramid: maps of some levels, each of some images, and nothing else computed.

    Attributes:
        inner_blocks, layer_blocks: what each level has of its own, in the order of levels.
    """

    inner_blocks: nn.ModuleList
    layer_blocks: nn.ModuleList

    def levels(self, features: Sequence[Tensor], wanted: Mapping[int, slice]) -> dict[int, Tensor]:
        """Maps of levels (0 is P2), coarse ones first.

        Args:
            features: of the backbone, (B, C, h, w) each.
            wanted: level -> images whose map is asked for, ``slice(None)``: all. A finer level's images lie at the same
                place as a coarser one's, or behind them.

        Returns:
            level -> (images, C, h, w).
        """


class Fpn(FeaturePyramidNetwork):
    """torchvision's, which can also compute parts of itself."""

    def levels(self, features: Sequence[Tensor], wanted: Mapping[int, slice]) -> dict[int, Tensor]:
        """As ``Pyramid``: a lateral convolution sees the images of its level and, for their top-down path, of finer ones."""
        total = len(features[-1])
        rows = {level: images.indices(total)[:2] for level, images in wanted.items()}
        merged, offset, maps = None, 0, {}
        for level in range(len(LEVELS) - 1, min(wanted) - 1, -1):
            needed = [row for other, row in rows.items() if other <= level]
            first, last = min(row[0] for row in needed), max(row[1] for row in needed)
            side = self.inner_blocks[level](features[level][first:last])
            merged = side if merged is None else add_top_down(side, merged[first - offset : last - offset])
            offset = first
            if level in rows:
                start, stop = rows[level]
                maps[level] = self.layer_blocks[level](merged[start - offset : stop - offset])
        return maps


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


class SimplePyramid(nn.Module):
    """ViTDet's (arXiv 2203.16527, section 3): every level from the last map alone, by deconvolution or pooling.

    A level is [2x2 deconvolutions with stride 2 (LayerNorm and GELU between two), nothing, or max pooling], 1x1
    convolution to ``out_channels``, 3x3 convolution; LayerNorm over channels after either, no bias, no activation.

    Args:
        channels: of the map.
        stride: of the map, in pixels.
        levels: names, the last of P2..P5; names of tensors are those in a whole pyramid.
        above: block that makes further levels from the last one (a detector's).
    """

    def __init__(
        self, channels: int, stride: int, out_channels: int, levels: Sequence[str] = LEVELS, above: ExtraFPNBlock | None = None
    ) -> None:
        super().__init__()
        self.names, inner, outer = tuple(levels), {}, {}
        for name in levels:
            number = LEVELS.index(name)
            steps, width = resampling(channels, stride, 4 * 2**number)
            lateral = Conv2dNormActivation(width, out_channels, 1, padding=0, norm_layer=LayerNorm2d, activation_layer=None)
            inner[str(number)] = nn.Sequential(OrderedDict([("resample", steps), *lateral.named_children()]))
            outer[str(number)] = Conv2dNormActivation(out_channels, out_channels, 3, norm_layer=LayerNorm2d, activation_layer=None)
        self.inner_blocks, self.layer_blocks = _whole_or_named(inner), _whole_or_named(outer)
        self.extra_blocks = above

    def levels(self, features: Sequence[Tensor], wanted: Mapping[int, slice]) -> dict[int, Tensor]:
        """As ``Pyramid``; no level needs another."""
        return {level: self._level(str(level), features[-1][wanted[level]]) for level in sorted(wanted, reverse=True)}

    def forward(self, features: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
        """name -> map of the backbone, of which the last is read -> all levels, and those above."""
        last, names = list(features.values())[-1], list(self.names)
        found = [self._level(str(LEVELS.index(name)), last) for name in names]
        if self.extra_blocks is not None:
            found, names = self.extra_blocks(found, [last], names)
        return OrderedDict(zip(names, found, strict=True))

    def _level(self, number: str, feature: Tensor) -> Tensor:
        blocks = (self.inner_blocks, self.layer_blocks)
        inner, outer = (block[int(number)] if isinstance(block, nn.ModuleList) else block[number] for block in blocks)
        return outer(inner(feature))


def resampling(channels: int, stride: int, wanted: int) -> tuple[nn.Sequential, int]:
    """(layers that bring a map from one stride to another, channels afterwards): a deconvolution halves both."""
    layers: list[nn.Module] = []
    while stride > wanted:
        if layers:
            layers += [LayerNorm2d(channels), nn.GELU()]
        layers.append(nn.ConvTranspose2d(channels, channels // 2, 2, 2))
        channels, stride = channels // 2, stride // 2
    while stride < wanted:
        layers.append(nn.MaxPool2d(2, 2))
        stride *= 2
    return nn.Sequential(*layers), channels


def _named_from(first: int, blocks: nn.ModuleList) -> nn.ModuleDict:
    return nn.ModuleDict({str(level): block for level, block in enumerate(blocks, start=first)})


def _whole_or_named(blocks: Mapping[str, nn.Module]) -> nn.ModuleList | nn.ModuleDict:
    return nn.ModuleList(blocks.values()) if len(blocks) == len(LEVELS) else nn.ModuleDict(blocks)


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
        pyramid = Fpn(list(channels), out_channels, above, norm_layer=nn.BatchNorm2d)
    return _xavier(pyramid)


def build_simple_pyramid(
    channels: int, stride: int, out_channels: int, levels: Sequence[str] = LEVELS, above: ExtraFPNBlock | None = None
) -> SimplePyramid:
    """See ``SimplePyramid``; convolutions Xavier-uniform, deconvolutions torch's own."""
    return _xavier(SimplePyramid(channels, stride, out_channels, levels, above))


def _xavier(pyramid: nn.Module) -> nn.Module:
    for module in [*pyramid.inner_blocks.modules(), *pyramid.layer_blocks.modules()]:
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
    return pyramid


def add_top_down(lateral_map: Tensor, above: Tensor) -> Tensor:
    """Add the level above, enlarged by repetition: (N, C, 2h, 2w) + (N, C, h, w)."""
    return lateral_map + F.interpolate(above, size=lateral_map.shape[-2:], mode="nearest")
