"""MAE's light decoder, what it reconstructs, and which patches are masked (arXiv 2111.06377, section 3)."""

from __future__ import annotations

from functools import partial

import torch
from lightly.models.utils import normalize_mean_var, patchify
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from mcl.methods.losses import at_least_fp32

Norm = partial(nn.LayerNorm, eps=1e-6)


class Decoder(nn.Module):
    """From the visible cells to the pixels of all cells: a mask token at each masked place, fixed positions, some blocks.

    lightly's and the authors' decoder in short; positions are those of the canvas, so that it serves tiles too.

    Args:
        channels: of the encoder's cells.
        width, depth, heads: of the decoder.
        patch: side of a patch in pixels.
        grid: (rows, columns) of cells of a canvas.
    """

    def __init__(self, channels: int, width: int, depth: int, heads: int, patch: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.norm, self.embed = Norm(channels), nn.Linear(channels, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.blocks = nn.Sequential(*[Block(width, heads, qkv_bias=True, norm_layer=Norm) for _ in range(depth)])
        self.last_norm, self.predict = Norm(width), nn.Linear(width, 3 * patch**2)
        positions = build_sincos2d_pos_embed(list(grid), width).unflatten(0, grid)
        self.register_buffer("positions", positions, persistent=False)
        nn.init.normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor, cells: Tensor, kept: Tensor, tiles: int = 1) -> Tensor:
        """(n, P, D) tokens, (n, K, D) visible cells and their (n, K) places -> (n, cells, 3 * patch^2) of all cells.

        Args:
            tiles: s: rows are tiles of s x s canvases, in their order; places are inside each tile.
        """
        positions = to_tiles(self.positions[None], tiles)  # (s^2, cells, W)
        positions = positions.repeat(len(cells) // len(positions), 1, 1)
        x = self.embed(self.norm(torch.cat([tokens, cells], dim=1)))
        tokens, cells = x.split([tokens.shape[1], cells.shape[1]], dim=1)
        everywhere = self.mask_token.to(cells.dtype).expand_as(positions)
        placed = everywhere.scatter(1, kept[..., None].expand_as(cells), cells) + positions.to(cells.dtype)
        x = self.last_norm(self.blocks(torch.cat([tokens, placed], dim=1)))
        return self.predict(x[:, tokens.shape[1] :])


def to_tiles(cells: Tensor, tiles: int) -> Tensor:
    """(B, H, W, D) -> (B * s^2, cells of a tile, D), tiles row by row within a canvas, cells row by row within a tile."""
    cut = cells.unflatten(2, (tiles, -1)).unflatten(1, (tiles, -1)).transpose(2, 3)  # (B, s, s, h, w, D)
    return cut.flatten(3, 4).flatten(0, 2)


def places_on_canvas(places: Tensor, tiles: int, grid: tuple[int, int]) -> Tensor:
    """(B * s^2, K) places inside tiles -> (B, s^2 * K) on their canvas of (H, W) cells."""
    height, width = grid[0] // tiles, grid[1] // tiles
    tile = torch.arange(len(places), device=places.device)[:, None] % tiles**2
    row, column = tile // tiles * height + places // width, tile % tiles * width + places % width
    return (row * grid[1] + column).unflatten(0, (-1, tiles**2)).flatten(1)


def draw_kept(rows: int, cells: int, mask_ratio: float, generator: torch.Generator) -> Tensor:
    """(rows, K) places of the cells that stay visible, all sets alike: the K smallest of random numbers, K >= 1."""
    kept = min(cells - 1, max(1, round(cells * (1 - mask_ratio))))
    return torch.rand(rows, cells, generator=generator, dtype=torch.float64).argsort(dim=1)[:, :kept]


def pixel_targets(images: Tensor, patch: int, normalise: bool) -> Tensor:
    """(B, 3, S, S) -> (B, H, W, 3 * patch^2): each patch's pixels, less their mean over their deviation if ``normalise``."""
    pixels = at_least_fp32(patchify(images, patch))
    pixels = normalize_mean_var(pixels) if normalise else pixels
    return pixels.unflatten(1, (images.shape[2] // patch, images.shape[3] // patch))


def masked_error(predicted: Tensor, target: Tensor, kept: Tensor) -> Tensor:
    """Mean over masked cells of the mean squared error of their pixels: (n, cells, P), (n, cells, P), (n, K) -> 0-d."""
    each = (at_least_fp32(predicted) - target).square().mean(dim=-1)
    masked = torch.ones_like(each).scatter(1, kept, 0.0)
    return (each * masked).sum() / masked.sum()
