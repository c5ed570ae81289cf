"""A plain vision transformer (arXiv 2010.11929) as a backbone: one map at the stride of its patches.

Its modules and their names are timm's. What timm's own network has behind the last block (a norm, a classifier) is not
part of it, as in ViTDet (arXiv 2203.16527): methods that want a norm have one of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import timm
import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed, build_sincos2d_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from mcl.errors import UserError

#: timm's files with plain transformers in them (and some that are not plain)
HOMES = ("timm.models.vision_transformer", "timm.models.deit")
GLOBAL_BLOCKS = 4  # of a windowed network that names none (ViTDet, section 3)
PATCHES = (4, 8, 16, 32)


@dataclass(frozen=True)
class VitForm:
    """How a plain transformer differs from what its timm name says.

    Attributes:
        patch_size: side of a patch in pixels; 0: the name's own.
        window: side in cells of the windows that attention is limited to; 0: all of it is global.
        global_blocks: blocks whose attention is global all the same; (): four, evenly spread, the last one among them.
    """

    patch_size: int = 0
    window: int = 0
    global_blocks: tuple[int, ...] = ()


class Seen(NamedTuple):
    """What a plain transformer makes of canvases.

    Attributes:
        maps: (B, D, H, W), the last block's cells.
        tokens: (B * s^2, P, D), the last block's class token (and registers) of every tile, row by row within a canvas;
            s is 1 unless tiles were kept apart. P may be 0.
    """

    maps: Tensor
    tokens: Tensor


class WindowBlock(Block):
    """timm's block, whose attention may be limited to windows of cells. Its parameters are the same.

    Windows as in ViTDet: cells are normalised, padded with zeros to whole windows, and each window attends to itself. The
    class token and registers stand in every window, and leave as the mean over them: a network of one window is a global one.
    """

    def forward(self, x: Tensor, grid: tuple[int, int] | None = None, window: int = 0) -> Tensor:
        """(B, P + H * W, D) -> the same; ``grid``: (H, W), ``window``: side in cells; without, attention is global."""
        if not window or grid is None:
            return super().forward(x)
        x = x + self.drop_path1(self.ls1(self._attend(self.norm1(x), grid, window)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))

    def _attend(self, x: Tensor, grid: tuple[int, int], window: int) -> Tensor:
        (height, width), batch = grid, len(x)
        first, cells = x.split([x.shape[1] - height * width, height * width], dim=1)
        below, beside = -height % window, -width % window
        cells = F.pad(cells.unflatten(1, grid), (0, 0, 0, beside, 0, below))
        rows, columns = cells.shape[1] // window, cells.shape[2] // window
        cut = cells.unflatten(2, (columns, window)).unflatten(1, (rows, window)).transpose(2, 3)
        cut = cut.reshape(batch * rows * columns, window * window, -1)
        repeated = first.repeat_interleave(rows * columns, dim=0)
        seen = self.attn(torch.cat([repeated, cut], dim=1))
        first, cut = seen.split([first.shape[1], window * window], dim=1)
        cells = cut.reshape(batch, rows, columns, window, window, -1).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        first = first.unflatten(0, (batch, rows * columns)).mean(dim=1)
        return torch.cat([first, cells[:, :height, :width].flatten(1, 2)], dim=1)


class PlainVit(nn.Module):
    """Patch projection, position embeddings (interpolated to the canvas) and blocks of a timm network.

    Attributes:
        stride: side of a patch in pixels.
        channels: width of a cell.
        grid: (rows, columns) that the position embeddings were made for.
        blocks_global: of each block, whether its attention is global.
    """

    def __init__(self, network: VisionTransformer, form: VitForm) -> None:
        super().__init__()
        self.cls_token, self.reg_token, self.pos_embed = network.cls_token, network.reg_token, network.pos_embed
        self.patch_embed, self.norm_pre, self.blocks = network.patch_embed, network.norm_pre, network.blocks
        self.patch_embed.strict_img_size, self.patch_embed.flatten = False, False
        self.no_embed_class = network.no_embed_class
        self.stride, self.channels = self.patch_embed.patch_size[0], network.embed_dim
        self.grid, self.form = tuple(self.patch_embed.grid_size), form
        self.blocks_global = global_blocks(form, len(self.blocks))
        for block in self.blocks:
            block.__class__ = WindowBlock

    @property
    def prefix(self) -> int:
        """Number of tokens that are no cells: the class token, registers."""
        return sum(token.shape[1] for token in (self.cls_token, self.reg_token) if token is not None)

    def forward(self, images: Tensor, tiles: int = 1, kept: Tensor | None = None) -> Seen:
        """(B, 3, H, W), normalised; sides are multiples of the patch -> cells and tokens.

        Args:
            tiles: s: each canvas is cut into s x s tiles that attend to themselves alone, each with tokens of its own.
            kept: (B, K) cells that are seen at all, by their place (MAE); ``maps`` are then (B, D, 1, K), in that order.
                With tiles, (B * s^2, K) places inside each tile.
        """
        cells = self.embed(images)  # (B, H, W, D)
        batch, height, width, _ = cells.shape
        if tiles > 1:
            if height % tiles or width % tiles:
                raise UserError(
                    f"tiles of {images.shape[-1] // tiles} px cannot be kept apart: a patch of {self.stride} px shows parts "
                    "of several; use attention canvas, fewer scales or smaller patches"
                )
            cells = cells.unflatten(2, (tiles, -1)).unflatten(1, (tiles, -1)).transpose(2, 3).flatten(0, 2)
        grid = tuple(cells.shape[1:3])
        cells = cells.flatten(1, 2)  # (B * s^2, cells of a tile, D)
        if kept is not None:
            cells, grid = cells.gather(1, kept[..., None].expand(-1, -1, cells.shape[-1])), None
        x = self.norm_pre(torch.cat([self.tokens(len(cells)).to(cells.dtype), cells], dim=1))
        for block, whole in zip(self.blocks, self.blocks_global, strict=True):
            x = block(x) if whole else block(x, grid, self.form.window)
        tokens, cells = x.split([self.prefix, x.shape[1] - self.prefix], dim=1)
        if kept is not None:
            return Seen(cells.transpose(1, 2)[:, :, None], tokens)
        cells = cells.unflatten(1, grid)
        if tiles > 1:
            cells = cells.unflatten(0, (batch, tiles, tiles)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return Seen(cells.permute(0, 3, 1, 2), tokens)

    def layer_rate(self, name: str, decay: float) -> float:
        """A parameter's learning rate as a multiple of what follows the network (ViTDet, BEiT): block i of n has
        decay^(n - i), what lies before the blocks decay^(n + 1)."""
        head, _, rest = name.partition(".")
        return decay ** (len(self.blocks) - int(rest.partition(".")[0]) if head == "blocks" else len(self.blocks) + 1)

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, H / patch, W / patch, D): projected patches with their positions."""
        cells = self.patch_embed.proj(images).permute(0, 2, 3, 1)
        cells = self.patch_embed.norm(cells)
        return cells + self.positions(tuple(cells.shape[1:3])).to(cells.dtype)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """(H, W, D): position embeddings for a grid, bicubically interpolated from those that were trained."""
        cells = self.pos_embed[0, self._positions_of_tokens() :].unflatten(0, self.grid)
        return cells if grid == self.grid else resized(cells, grid)

    def tokens(self, count: int) -> Tensor:
        """(count, P, D): the class token and registers, with their positions, as the first block gets them."""
        found = [token for token in (self.cls_token, self.reg_token) if token is not None]
        if not found:
            return self.pos_embed.new_zeros(count, 0, self.channels)
        first = torch.cat(found, dim=1)
        with_position = self._positions_of_tokens()
        return (first + self.pos_embed[:, :with_position] if with_position else first).expand(count, -1, -1)

    def _positions_of_tokens(self) -> int:
        return 0 if self.no_embed_class else self.prefix


def resized(cells: Tensor, grid: tuple[int, int]) -> Tensor:
    """(H, W, D) -> (h, w, D), bicubic with a wider kernel where it shrinks (as timm does), in fp32 or better."""
    wide = cells.to(torch.promote_types(cells.dtype, torch.float32)).permute(2, 0, 1)[None]
    return F.interpolate(wide, grid, mode="bicubic", antialias=True)[0].permute(1, 2, 0).to(cells.dtype)


def global_blocks(form: VitForm, depth: int) -> tuple[bool, ...]:
    """Of each of ``depth`` blocks, whether its attention is global.

    Raises:
        UserError: a block that is not there.
    """
    if not form.window:
        return (True,) * depth
    if wrong := [block for block in form.global_blocks if not 0 <= block < depth]:
        raise UserError(f"global_blocks: there is no block {wrong[0]}; the network has 0 to {depth - 1}")
    each = max(1, depth // GLOBAL_BLOCKS)
    chosen = form.global_blocks or tuple(range(depth - 1, -1, -each))[:GLOBAL_BLOCKS]
    return tuple(block in chosen for block in range(depth))


def build_vit(name: str, image_size: int, pretrained: bool, form: VitForm, drop_path: float = 0.0) -> PlainVit:
    """A plain transformer with position embeddings for ``image_size`` pixels; timm's initialisation or weights.

    Raises:
        UserError: patches that the image does not hold whole numbers of, or whose stride no pyramid is made for.
    """
    patch = form.patch_size or patch_of(name)
    if patch not in PATCHES:
        raise UserError(
            f"--model.backbone {name}: its patches are {patch} px wide, a pyramid needs one of {list(PATCHES)} "
            "(--model.patch_size sets it)"
        )
    if image_size % patch:
        raise UserError(f"--image_size {image_size}: not a multiple of {name}'s patches of {patch} px")
    network = timm.create_model(
        name, pretrained=pretrained, num_classes=0, img_size=image_size, drop_path_rate=drop_path,
        **({"patch_size": form.patch_size} if form.patch_size else {}),
    )  # fmt: skip
    return PlainVit(network, form)


def is_plain_vit(name: str) -> bool:
    """Whether timm builds a plain transformer under this name: absolute positions, blocks one after the other."""
    return patch_of(name) > 0


@lru_cache(maxsize=64)
def patch_of(name: str) -> int:
    """Side in pixels of the patches of a plain transformer's timm name; 0: it is none."""
    base = name.partition(".")[0]
    if not timm.is_model(base) or timm.model_entrypoint(base).__module__ not in HOMES:
        return 0
    with torch.device("meta"):
        network = timm.create_model(base, num_classes=0)
    plain = (
        type(network) is VisionTransformer
        and type(network.patch_embed) is PatchEmbed
        and network.pos_embed is not None
        and all(type(block) is Block for block in network.blocks)
    )
    return network.patch_embed.patch_size[0] if plain else 0


@torch.no_grad()
def fix_positions(vit: PlainVit) -> None:
    """Positions as sines and cosines of rows and columns, which are not trained (MoCo v3, MAE); those of tokens are zero."""
    first = vit.pos_embed.shape[1] - vit.grid[0] * vit.grid[1]
    wanted = build_sincos2d_pos_embed(list(vit.grid), vit.channels, interleave_sin_cos=False)
    vit.pos_embed.zero_()[0, first:] = wanted.to(vit.pos_embed)
    vit.pos_embed.requires_grad_(False)


def freeze_patches(vit: PlainVit) -> None:
    """Leave the patch projection at the random values it has (MoCo v3, section 5: it makes training stable)."""
    vit.patch_embed.requires_grad_(False)


def fitted_positions(positions: Tensor, wanted: Tensor, tokens: Sequence[int] = (0, 1)) -> Tensor | None:
    """Position embeddings (1, p + n, D) of another grid, interpolated to the shape of ``wanted``; None: they cannot be.

    Args:
        tokens: numbers of leading positions of tokens that either side may have.
    """
    if positions.shape == wanted.shape:
        return positions
    if positions.dim() != 3 or positions.shape[-1] != wanted.shape[-1]:
        return None
    for first in tokens:
        old, new = (round((tensor.shape[1] - first) ** 0.5) for tensor in (positions, wanted))
        if old**2 + first == positions.shape[1] and new**2 + first == wanted.shape[1]:
            cells = resized(positions[0, first:].unflatten(0, (old, old)), (new, new)).flatten(0, 1)
            return torch.cat([positions[:, :first], cells[None]], dim=1)
    return None
