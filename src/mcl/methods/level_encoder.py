"""From canvases to one embedding a tile: level-matched, or exhaustive as in the authors' code.

A canvas is what the backbone sees: a full-size image or a montage. Canvases come ordered by scale (1, 2, 4, 8),
so the canvases of one scale, or of all scales from one on, are a slice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from mcl.methods.losses import at_least_fp32
from mcl.nn.backbone import features_of
from mcl.nn.heads import build_projector
from mcl.nn.pyramid import LEVELS
from mcl.nn.trunk import Trunk


@dataclass(frozen=True)
class Layout:
    """How many canvases there are of each scale, in their order.

    Attributes:
        scales: tiles per side, ascending powers of two starting with 1.
        counts: canvases of each scale.
    """

    scales: tuple[int, ...]
    counts: tuple[int, ...]

    def slice_of(self, scale: int) -> slice:
        """Canvases of one scale."""
        position = self.scales.index(scale)
        start = sum(self.counts[:position])
        return slice(start, start + self.counts[position])


@dataclass(frozen=True)
class Read:
    """What an encoder makes of one view, each by scale.

    Attributes:
        maps: (canvases, C, h, w) on the scale's level.
        cells: (tiles, C, w, w), each tile's window after the head.
        embeddings: (tiles, E).
        whole: p2 .. p5 -> (images, C, h, w) of the full-size images, where regions are learned.
    """

    maps: Mapping[int, Tensor]
    cells: Mapping[int, Tensor]
    embeddings: dict[int, Tensor]
    whole: Mapping[str, Tensor] = field(default_factory=dict)


class Encoder(nn.Module):
    """Trunk and projector: what is trained, and what the target copies.

    Args:
        last_norm: of the projector.
        dense: also a projector for cells.
        apart: a montage's tiles see nothing of each other (plain transformers only).
    """

    def __init__(
        self, trunk: Trunk, hidden: int, embedding: int, last_norm: bool = True, dense: bool = False, apart: bool = False
    ) -> None:
        super().__init__()
        self.trunk, self.apart = trunk, apart
        self.projector = build_projector(trunk.out_channels, hidden, embedding)
        if not last_norm:  # it would settle what VICReg's variance term is there for
            del self.projector[-1]
        if dense:
            self.dense_projector = build_projector(trunk.out_channels, hidden, embedding)

    def encode_matched(
        self, canvases: Tensor, layout: Layout, scales: Sequence[int], boxes: Mapping[int, Tensor] | None = None
    ) -> dict[int, Tensor]:
        """Embeddings of the tiles of ``scales``, each from the level that matches, and nothing else computed.

        Args:
            canvases, layout, scales: as for ``maps_matched``.
            boxes: as for ``read``.

        Returns:
            scale -> (canvases of the scale * scale^2, E), tiles row by row, or in the order of their boxes.
        """
        return self.read(self.maps_matched(canvases, layout, scales), boxes).embeddings

    def maps_matched(self, canvases: Tensor, layout: Layout, scales: Sequence[int]) -> dict[int, Tensor]:
        """The map of every scale's canvases on the level that matches, and nothing else computed (``Pyramid``).

        One pass of the backbone over all canvases; one for each scale where tiles are kept apart.

        Args:
            canvases: (B, 3, S, S), ordered as ``layout`` says.
            layout: canvases of each scale.
            scales: which maps.

        Returns:
            As ``matched``.
        """
        return self.matched(self.features(canvases, layout), layout, scales)

    def whole_maps(self, features: Sequence[Tensor], layout: Layout, images: slice) -> dict[str, Tensor]:
        """All levels of some of the full-size images: p2 .. p5 -> (images, C, h, w)."""
        own = [found[layout.slice_of(1)][images] for found in features]
        levels = self.trunk.backbone.fpn.levels(own, dict.fromkeys(range(len(LEVELS)), slice(None)))
        return {name: levels[level] for level, name in enumerate(LEVELS)}

    def matched(self, features: Sequence[Tensor], layout: Layout, scales: Sequence[int]) -> dict[int, Tensor]:
        """The map of every scale's canvases on the level that matches, of ``features``, and nothing else (``Pyramid``).

        Returns:
            scale -> (canvases of the scale, C, h, w), from P2 to P5 as the authors do: the order decides what the
            shared head's running statistics become.
        """
        levels = {self.trunk.spec.level_of(scale): layout.slice_of(scale) for scale in scales}
        maps = self.trunk.backbone.fpn.levels(features, levels)
        return {scale: maps[self.trunk.spec.level_of(scale)] for scale in sorted(scales, reverse=True)}

    def features(self, canvases: Tensor, layout: Layout) -> list[Tensor]:
        """Maps of the backbone, (B, C, h, w) each, of canvases ordered as ``layout`` says."""
        body = self.trunk.backbone.body
        if not self.apart:
            return features_of(body, canvases)
        rows = [features_of(body, canvases[layout.slice_of(scale)], scale) for scale in layout.scales]
        return [torch.cat(of_all) for of_all in zip(*rows, strict=True)]

    def maps_stacked(self, tiles: Mapping[int, Tensor], scales: Sequence[int]) -> dict[int, Tensor]:
        """Maps of tiles that are images of their own: a pass of the backbone for each scale.

        A tile's level of its scale is exactly one window; finer levels are not computed.

        Args:
            tiles: scale s -> (n, 3, S/s, S/s).
            scales: which maps.

        Returns:
            scale -> (n, C, w, w), from P2 to P5.
        """
        maps = {}
        for scale in sorted(scales, reverse=True):
            features, own = features_of(self.trunk.backbone.body, tiles[scale]), self.trunk.spec.level_of(scale)
            maps |= {scale: self.trunk.backbone.fpn.levels(features, {own: slice(None)})[own]}
        return maps

    def map_of_top(self, canvases: Tensor, layout: Layout | None = None) -> Tensor:
        """Every canvas on the level of full-size images, P5 unless ``finer``: (B, 3, S, S) -> (B, C, w, w).

        Args:
            layout: of the canvases; None: they are full-size images, or stand for such.
        """
        level = self.trunk.spec.level_of(1)
        features = features_of(self.trunk.backbone.body, canvases) if layout is None else self.features(canvases, layout)
        return self.trunk.backbone.fpn.levels(features, {level: slice(None)})[level]

    def encode_top(self, canvases: Tensor) -> Tensor:
        """Embeddings of every canvas, taken whole: (B, 3, S, S) -> (B, E)."""
        return self.read({1: self.map_of_top(canvases)}).embeddings[1]

    def encode_exhaustive(self, canvases: Tensor, layout: Layout) -> dict[int, Tensor]:
        """All windows of all levels of all canvases, as the authors' code computes them.

        Returns:
            scale -> (B * scale^2, E): every canvas cut as if it were of that scale.
        """
        everywhere = dict.fromkeys(range(len(LEVELS)), slice(None))
        levels = self.trunk.backbone.fpn.levels(self.features(canvases, layout), everywhere)
        # From P2 to P5, as above.
        return {
            scale: self.read({scale: levels[self.trunk.spec.level_of(scale)]}).embeddings[scale]
            for scale in reversed(layout.scales)
        }

    def read(self, maps: Mapping[int, Tensor], boxes: Mapping[int, Tensor] | None = None) -> Read:
        """Cut maps into windows, then head, mean over the window, projector.

        Cutting comes before the convolutions, so that zero padding acts at window borders as after RoIAlign. The
        windows of all maps go through each convolution and linear layer together, which few windows of few cells
        would leave half idle, and through each BatchNorm map by map: every level has statistics of its own.

        Args:
            maps: scale -> (b, C, h, w).
            boxes: scale -> (b, n, 4), where the tiles lie on the canvases, in pixels; without, a grid of windows.
        """
        window, size = self.trunk.spec.window, self.trunk.spec.image_size
        cells = self.cells({
            scale: align_windows(found, boxes[scale], window, size)
            if boxes and scale in boxes
            else cut_windows(found, window)
            for scale, found in maps.items()
        })  # fmt: skip
        counts = [len(found) for found in cells.values()]
        embedded = self.projector(torch.cat([found.mean(dim=(2, 3)) for found in cells.values()]), counts)
        return Read(dict(maps), cells, dict(zip(cells, embedded.split(counts), strict=True)))

    def project_cells(self, cells: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Cells one by one through the dense projector: scale -> (n, C, w, w) -> (n, E, w, w)."""
        rows = [found.permute(0, 2, 3, 1).flatten(0, 2) for found in cells.values()]
        counts, window = [len(row) for row in rows], self.trunk.spec.window
        projected = self.dense_projector(torch.cat(rows), counts).split(counts)
        shaped = (row.unflatten(0, (-1, window, window)).permute(0, 3, 1, 2) for row in projected)
        return dict(zip(cells, shaped, strict=True))

    def cells(self, windows: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Windows through the head: scale -> (n, C, w, w) -> the same shape."""
        counts = [len(cut) for cut in windows.values()]
        joined = torch.cat(list(windows.values())) if len(windows) > 1 else next(iter(windows.values()))
        return dict(zip(windows, self.trunk.roi_heads.box_head(joined, counts).split(counts), strict=True))


def align_windows(maps: Tensor, boxes: Tensor, window: int, image_size: int) -> Tensor:
    """RoIAlign: (b, C, h, w) maps of canvases, (b, n, 4) boxes in their pixels -> (b * n, C, window, window)."""
    exact = at_least_fp32(maps)  # bf16 would round boxes to whole pixels
    rois = list(boxes.to(exact.device, exact.dtype, non_blocking=True))
    found = roi_align(exact, rois, window, maps.shape[-1] / image_size, sampling_ratio=2, aligned=True).to(maps.dtype)
    is_nhwc = maps.is_contiguous(memory_format=torch.channels_last)
    return found.contiguous(memory_format=torch.channels_last) if is_nhwc else found


def cut_windows(pyramid_map: Tensor, window: int) -> Tensor:
    """(b, C, r * window, c * window) -> (b * r * c, C, window, window), row by row within a map."""
    b, channels, height, width = pyramid_map.shape
    rows, columns = height // window, width // window
    if rows == columns == 1:
        return pyramid_map
    cut = pyramid_map.reshape(b, channels, rows, window, columns, window).permute(0, 2, 4, 1, 3, 5)
    windows = cut.reshape(b * rows * columns, channels, window, window)
    is_nhwc = pyramid_map.is_contiguous(memory_format=torch.channels_last)
    return windows.contiguous(memory_format=torch.channels_last) if is_nhwc else windows
