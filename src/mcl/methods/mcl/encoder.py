"""From canvases to one embedding a tile: level-matched, or exhaustive as in the authors' code.

A canvas is what the backbone sees: a full-size image or a montage. Canvases come ordered by scale (1, 2, 4, 8),
so the canvases of one scale, or of all scales from one on, are a slice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mcl.nn.backbone import features_of
from mcl.nn.heads import build_projector
from mcl.nn.pyramid import LEVELS, add_top_down, lateral, output
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

    @staticmethod
    def level_of(scale: int) -> int:
        """Pyramid level (0 is P2) on which a tile of this scale covers exactly one window: 1 -> P5 ... 8 -> P2."""
        return len(LEVELS) - scale.bit_length()


class Encoder(nn.Module):
    """Trunk and projector: what is trained, and what the target copies."""

    def __init__(self, trunk: Trunk, hidden: int, embedding: int, last_norm: bool = True) -> None:
        super().__init__()
        self.trunk = trunk
        self.projector = build_projector(trunk.out_channels, hidden, embedding)
        if not last_norm:  # it would settle what VICReg's variance term is there for
            del self.projector[-1]

    def encode_matched(self, canvases: Tensor, layout: Layout, scales: Sequence[int]) -> dict[int, Tensor]:
        """Embeddings of the tiles of ``scales``, each from the level that matches, and nothing else computed.

        One pass of the backbone over all canvases. A lateral convolution sees the canvases of its own scale and
        of all smaller tiles (they need it for their top-down path), an output convolution only its own.

        Args:
            canvases: (B, 3, S, S), ordered as ``layout`` says.
            layout: canvases of each scale.
            scales: which tiles to embed.

        Returns:
            scale -> (canvases of the scale * scale^2, E), tiles row by row.
        """
        features = features_of(self.trunk.backbone.body, canvases)
        merged, maps, offset = None, {}, 0
        for scale in layout.scales:
            if scale > max(scales):
                break
            level, own = layout.level_of(scale), layout.slice_of(scale)
            # From here on: this scale's canvases and those of smaller tiles that are wanted.
            last = layout.slice_of(max(scales)).stop
            side = lateral(self.trunk.backbone.fpn, level, features[level][own.start : last])
            merged = side if merged is None else add_top_down(side, merged[own.start - offset :])
            offset = own.start
            if scale in scales:
                maps[scale] = output(self.trunk.backbone.fpn, level, merged[: own.stop - own.start])
        # From P2 to P5, as the authors do: the order decides what the shared head's running statistics become.
        wanted = list(reversed(maps))
        return dict(zip(wanted, self.embed_windows([maps[scale] for scale in wanted]), strict=True))

    def encode_stacked(self, tiles: Mapping[int, Tensor], scales: Sequence[int]) -> dict[int, Tensor]:
        """Embeddings of tiles that are images of their own: a pass of the backbone for each scale.

        A tile's level of its scale is exactly one window; finer levels are not computed.

        Args:
            tiles: scale s -> (n, 3, S/s, S/s).
            scales: which tiles to embed.

        Returns:
            scale -> (n, E).
        """
        pyramid, maps = self.trunk.backbone.fpn, {}
        for scale in sorted(scales, reverse=True):  # from P2 to P5, as above
            features, own = features_of(self.trunk.backbone.body, tiles[scale]), Layout.level_of(scale)
            merged = lateral(pyramid, len(LEVELS) - 1, features[-1])
            for level in range(len(LEVELS) - 2, own - 1, -1):
                merged = add_top_down(lateral(pyramid, level, features[level]), merged)
            maps[scale] = output(pyramid, own, merged)
        return dict(zip(maps, self.embed_windows(list(maps.values())), strict=True))

    def encode_top(self, canvases: Tensor) -> Tensor:
        """P5 embeddings of every canvas, taken whole: (B, 3, S, S) -> (B, E). No top-down path is needed."""
        top = features_of(self.trunk.backbone.body, canvases)[-1]
        level = len(LEVELS) - 1
        pyramid_map = output(self.trunk.backbone.fpn, level, lateral(self.trunk.backbone.fpn, level, top))
        return self.embed_windows([pyramid_map])[0]

    def encode_exhaustive(self, canvases: Tensor, layout: Layout) -> dict[int, Tensor]:
        """All windows of all levels of all canvases, as the authors' code computes them.

        Returns:
            scale -> (B * scale^2, E): every canvas cut as if it were of that scale.
        """
        levels = self.trunk.backbone(canvases)
        # From P2 to P5, as above.
        return {
            scale: self.embed_windows([levels[LEVELS[layout.level_of(scale)]]])[0]
            for scale in reversed(layout.scales)
        }

    def embed_windows(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Cut maps into windows, then head, mean over the window, projector: (b, C, h, w) each -> (b * windows, E) each.

        Cutting comes before the convolutions, so that zero padding acts at window borders as after RoIAlign. The
        windows of all maps go through each convolution and linear layer together, which few windows of few cells
        would leave half idle, and through each BatchNorm map by map: every level has statistics of its own.
        """
        windows = [cut_windows(pyramid_map, self.trunk.spec.window) for pyramid_map in maps]
        counts = [len(cut) for cut in windows]
        x = torch.cat(windows) if len(windows) > 1 else windows[0]
        x = self.trunk.roi_heads.box_head(x, counts)
        return list(self.projector(x.mean(dim=(2, 3)), counts).split(counts))


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
