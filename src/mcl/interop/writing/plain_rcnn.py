"""The backbone, pyramid and head that R-CNN libraries build, computed from a file's tensors under their own names.

Detectron2 and MMDetection build the same graph: a plain ResNet (He et al., arXiv 1512.03385, with the stride in the
3x3 convolution), a feature pyramid (Lin et al., arXiv 1612.03144) with a norm after each convolution and no
activation, and a box head of [convolution, norm, ReLU]. Nothing here comes from our own modules: where this and a
trunk give the same maps, the receiver's graph is the trunk's and every tensor is at its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mcl.interop.torchvision.resnet_shape import ResnetShape
from mcl.interop.writing.exported import compare, require_same_backbone
from mcl.interop.writing.source import TrunkSource, probe_images, probe_windows

EPS = 1e-5  # of BatchNorm, in all these libraries
#: what a name is made from: ``stage`` 2..5, ``layer`` 1..4 (the same), ``block`` 0.., ``conv`` 1..; ``level`` 2..5, ``row``
#: 0..3 (the same); ``row`` of the head's convolutions 0.., ``number`` 1..
Pair = tuple[str, str]


@dataclass(frozen=True)
class Names:
    """A library's names: of each place the prefix of the convolution and that of the norm behind it."""

    stem: Pair
    block: Pair
    shortcut: Pair
    lateral: Pair
    output: Pair
    head: Pair


def plain_maps(source: TrunkSource, tensors: Mapping[str, Tensor], names: Names, shape: ResnetShape) -> dict[str, Tensor]:
    """The maps of the exported parts as the receiver computes them: c2..c5, p2..p5, head (see ``trunk_maps``).

    Args:
        tensors: under the receiver's names.
        names: the receiver's.
        shape: of its ResNet.
    """
    graph = PlainRcnn(tensors, names)
    with torch.no_grad():
        features = graph.resnet(probe_images(source.spec), shape)
        maps = {f"c{level}": feature for level, feature in features.items()}
        start = min((int(level[1:]) for level in source.levels), default=6)
        maps |= {f"p{level}": p for level, p in sorted(graph.pyramid(features, start).items())}
        if source.has_head:
            maps["head"] = graph.head(probe_windows(source), source.spec.head_convs)
    return maps


def prove(
    source: TrunkSource, tensors: Mapping[str, Tensor], names: Names, shape: ResnetShape
) -> dict[str, float]:
    """Compare the receiver's graph with the trunk; returns the largest differences.

    Raises:
        Unfit: the backbone computes something else than a plain ResNet.
        RunFailed: pyramid or head differ.
    """
    ours, theirs = source.maps, plain_maps(source, tensors, names, shape)
    require_same_backbone(ours, theirs, source.backbone, f"its {shape.name or 'ResNet'}")
    return compare(ours, theirs)


@dataclass(frozen=True)
class PlainRcnn:
    """The graph; ``tensors`` are under the names that ``names`` makes."""

    tensors: Mapping[str, Tensor]
    names: Names

    def resnet(self, images: Tensor, shape: ResnetShape) -> dict[int, Tensor]:
        """(N, 3, S, S) -> {2: C2, .. 5: C5}, each (N, C_i, S / stride, S / stride)."""
        x = F.relu(self._conv_norm(self.names.stem, images, stride=2, padding=3))
        x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        features = {}
        for stage, blocks in enumerate(shape.counts, start=2):
            for block in range(blocks):
                x = self._block(x, shape, stage, block, stride=2 if block == 0 and stage > 2 else 1)
            features[stage] = x
        return features

    def pyramid(self, features: Mapping[int, Tensor], start: int = 2) -> dict[int, Tensor]:
        """C2..C5 -> P5 down to P ``start``: lateral, plus the level above enlarged by repetition, then the output."""
        levels, above = {}, None
        for level in range(5, start - 1, -1):
            place = {"level": level, "row": level - 2}
            merged = self._conv_norm(self.names.lateral, features[level], **place)
            if above is not None:
                merged = merged + F.interpolate(above, size=merged.shape[-2:], mode="nearest")
            levels[level], above = self._conv_norm(self.names.output, merged, padding=1, **place), merged
        return levels

    def head(self, windows: Tensor, convs: int) -> Tensor:
        """(n, C, w, w) -> the same shape."""
        for row in range(convs):
            windows = F.relu(self._conv_norm(self.names.head, windows, padding=1, row=row, number=row + 1))
        return windows

    def _block(self, x: Tensor, shape: ResnetShape, stage: int, block: int, stride: int) -> Tensor:
        place = {"stage": stage, "layer": stage - 1, "block": block}
        options = (
            [{"stride": stride, "padding": 1}, {"padding": 1}]
            if shape.block == "basic"
            else [{}, {"stride": stride, "padding": 1, "groups": shape.groups}, {}]
        )
        shortcut = x
        if f"{self.names.shortcut[0].format(**place)}.weight" in self.tensors:
            shortcut = self._conv_norm(self.names.shortcut, x, stride=stride, **place)
        for conv, option in enumerate(options, start=1):
            x = self._conv_norm(self.names.block, x, conv=conv, **option, **place)
            x = F.relu(x + shortcut if conv == len(options) else x)
        return x

    def _conv_norm(
        self, names: Pair, x: Tensor, stride: int = 1, padding: int = 0, groups: int = 1, **place: int
    ) -> Tensor:
        conv, norm = (name.format(**place) for name in names)
        x = F.conv2d(x, self.tensors[f"{conv}.weight"], None, stride, padding, 1, groups)
        mean, variance = self.tensors[f"{norm}.running_mean"], self.tensors[f"{norm}.running_var"]
        return F.batch_norm(x, mean, variance, self.tensors[f"{norm}.weight"], self.tensors[f"{norm}.bias"], eps=EPS)
