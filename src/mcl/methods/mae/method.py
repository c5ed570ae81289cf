"""MAE (arXiv 2111.06377), also on montages, also with MCL's loss on what is visible."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mcl.config.pretrain import ModelSettings, ViewSettings
from mcl.data.loading.views import ViewSpec, Wanted
from mcl.engine.processes.distributed import all_gather_rows, rank
from mcl.errors import UserError
from mcl.methods.base import Method, split_batch
from mcl.methods.health import health_of
from mcl.methods.level_encoder import Encoder, Layout
from mcl.methods.level_loss import contrast, level_weights
from mcl.methods.losses import unit
from mcl.methods.mae.decoder import (
    Decoder,
    draw_kept,
    masked_error,
    pixel_targets,
    places_on_canvas,
    to_tiles,
)
from mcl.methods.mae.settings import MaeSettings
from mcl.methods.montage import Shuffle, assemble, count_montages, draw_permutation, shuffle_from
from mcl.nn.heads import build_predictor
from mcl.nn.momentum import make_target, momentum_at, move_target
from mcl.nn.parts import LEVELS
from mcl.nn.trunk import Trunk
from mcl.nn.vit import PlainVit
from mcl.randomness import STREAM_MONTAGE, STREAM_REGIONS, generator_for

VIEWS = (1, 2)  # the second one for MCL's loss alone
LEAST_CELLS = 2  # of a tile: with one there would be nothing to mask, or to see


@dataclass(frozen=True)
class Laid:
    """One view of a micro-batch.

    Attributes:
        canvases: (B, 3, S, S), ordered by scale.
        layout: canvases of each scale.
        labels: scale -> (tiles,) image of each, counted within the micro-batch.
        kept: scale -> (tiles, K) places of visible cells inside each tile.
    """

    canvases: Tensor
    layout: Layout
    labels: Mapping[int, Tensor]
    kept: Mapping[int, Tensor]


@dataclass(frozen=True)
class Visible:
    """What the encoder made of the visible cells of a scale's canvases.

    Attributes:
        tokens: (n, P, D).
        cells: (n, K, D).
        places: (n, K) of the cells.
        tiles: s if rows are tiles, kept apart (places are inside each); 1 if they are canvases.
    """

    tokens: Tensor
    cells: Tensor
    places: Tensor
    tiles: int


class Mae(Method):
    """The encoder sees visible patches alone; one decoder for all scales."""

    advice = dict.fromkeys(("collapse_spread", "collapse_rank"), "try a lower --optim.lr or more --schedule.warmup_steps")

    def __init__(
        self, trunk: Trunk, model: ModelSettings, settings: MaeSettings, seed: int, precision: str = "fp32",
        channels_last: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(trunk, model, settings, seed, precision, channels_last)
        self.scales, body = settings.used_scales, _require(trunk, settings)
        self.weights = dict(zip(self.scales, level_weights(len(self.scales)), strict=True))
        decoder = Decoder(
            body.channels, settings.decoder_width, settings.decoder_depth, settings.decoder_heads, body.stride, body.grid
        )
        if not settings.mcl_weight:
            self.online = nn.ModuleDict({"trunk": trunk, "decoder": decoder})
            for module in (trunk.backbone.fpn, trunk.roi_heads):
                module.requires_grad_(False)
            return
        encoder = Encoder(trunk, model.hidden, model.embedding)
        self.online = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
        self.online["absent"] = nn.ParameterDict({"cell": torch.zeros(body.channels)})  # stands at masked places
        self.online["predictor"] = nn.ModuleDict(
            {str(scale): build_predictor(model.hidden, model.embedding) for scale in self.scales}
        )
        self.target = make_target(encoder)

    @classmethod
    def wanted(cls, settings: MaeSettings, views: ViewSettings, image_size: int) -> Wanted:
        shown = VIEWS if settings.mcl_weight else VIEWS[:1]
        # Style 1 is the one with little blur.
        return Wanted(
            tuple(ViewSpec((view, scale), image_size // scale, 1) for view in shown for scale in settings.used_scales)
        )

    @property
    def trunk(self) -> Trunk:
        return self.online["encoder"].trunk if self.settings.mcl_weight else self.online["trunk"]

    @property
    def trunks(self) -> list[Trunk]:
        return [self.trunk, *([self.target.trunk] if self.settings.mcl_weight else [])]

    @property
    def trained(self) -> nn.Module:
        return self.online

    @property
    def trained_parts(self) -> tuple[str, ...]:
        if not self.settings.mcl_weight:
            return ("backbone",)
        levels = (LEVELS[self.trunk.spec.level_of(scale)] for scale in reversed(self.scales))
        return ("backbone", *levels, "head")

    def backward_passes(self, micro_batches: int) -> int:
        return micro_batches * (len(VIEWS) if self.settings.mcl_weight else 1)

    def losses(
        self, batch: Mapping[str, Any], step: int, micro_batches: int = 1
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        pieces, shown = split_batch(batch, micro_batches), VIEWS if self.settings.mcl_weight else VIEWS[:1]
        targets = self._targets(pieces) if self.settings.mcl_weight else {}
        for number, piece in enumerate(pieces):
            for view in shown:
                laid = self.lay(piece, step, rank() * micro_batches + number, view)
                with self.autocast():
                    seen = {scale: self._visible(laid, scale) for scale in self.scales}
                loss, numbers = self._reconstructed(laid, seen, len(shown))
                if targets:
                    first = (rank() * micro_batches + number) * len(piece["index"])
                    extra, told = self._pulled(laid, seen, targets[VIEWS[view == 1]], first)
                    loss, numbers = loss + self.settings.mcl_weight * extra, numbers | told
                yield loss / micro_batches, numbers

    def after_update(self, step: int, total_steps: int) -> None:
        if self.settings.mcl_weight:
            move_target(self.target, self.online["encoder"], momentum_at(step, total_steps, self.settings.momentum))

    def notes(self, images: int) -> list[str]:
        cells = (self.trunk.spec.image_size // self.trunk.backbone.body.stride) ** 2
        counts = count_montages(images, self.scales, {})
        each = (
            f"scale {s}: {counts[s]} canvases, {draw_kept(1, cells // s**2, self.settings.mask_ratio, generator_for(0)).shape[1]} "
            f"of {cells // s**2} patches of a tile visible"
            for s in self.scales
        )
        return ["; ".join(each)]

    def components(self) -> dict[str, list[nn.Module]]:
        found = super().components()
        if not self.settings.mcl_weight:
            return {"backbone": found["backbone"], "decoder": [self.online["decoder"]]}
        target, heads = self.target.trunk, [self.online["encoder"].projector, *self.online["predictor"].values()]
        return found | {
            "decoder": [self.online["decoder"]], "projector": heads,
            "target": [target.backbone.body, *target.backbone.fpn.inner_blocks, *target.backbone.fpn.layer_blocks,
                       target.roi_heads.box_head, self.target.projector],
        }  # fmt: skip

    def gathered_numbers(self, images: int) -> int:
        return len(VIEWS) * images * self.model.embedding if self.settings.mcl_weight else 0

    def lay(self, piece: Mapping[str, Any], step: int, number: int, view: int) -> Laid:
        """One view of a micro-batch on canvases, and which cells stay visible: a function of (seed, step, number, view, scale)."""
        like, spec, images = next(self.parameters()), self.trunk.spec, len(piece["index"])
        counts = count_montages(images, self.scales, {})
        permutations = {
            s: draw_permutation(s, counts[s], generator_for(STREAM_MONTAGE, self.seed, step, number, view, s))
            for s in self.scales
            if s > 1
        }
        shuffle: Shuffle = shuffle_from(permutations, images)
        tiles = {s: piece["views"][view, s].to(like.device, non_blocking=True) for s in self.scales}
        canvases = assemble(tiles, shuffle, spec.mean, spec.std, like.dtype, self.channels_last)
        cells = (spec.image_size // self.trunk.backbone.body.stride) ** 2
        kept = {
            s: draw_kept(
                counts[s] * s**2, cells // s**2, self.settings.mask_ratio,
                generator_for(STREAM_REGIONS, self.seed, step, number, view, s),
            ).to(like.device, non_blocking=True)
            for s in self.scales
        }  # fmt: skip
        return Laid(canvases, Layout(self.scales, tuple(counts[s] for s in self.scales)), shuffle.labels, kept)

    def _visible(self, laid: Laid, scale: int) -> Visible:
        """One pass of the encoder over the canvases of a scale."""
        apart, kept = self.settings.attention == "tile" and scale > 1, laid.kept[scale]
        body = self.trunk.backbone.body
        places = kept if apart else places_on_canvas(kept, scale, body.grid)
        seen = body(laid.canvases[laid.layout.slice_of(scale)], scale if apart else 1, places)
        return Visible(seen.tokens, seen.maps[:, :, 0].transpose(1, 2), places, scale if apart else 1)

    def _reconstructed(self, laid: Laid, seen: Mapping[int, Visible], views: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over scales of the error of masked patches, over the number of views."""
        rows, (grid, patch) = {}, (self.trunk.backbone.body.grid, self.trunk.backbone.body.stride)
        for scale, visible in seen.items():
            with self.autocast():
                predicted = self.online["decoder"](visible.tokens, visible.cells, visible.places, visible.tiles)
            if visible.tiles != scale:
                predicted = to_tiles(predicted.unflatten(1, grid), scale)
            pixels = pixel_targets(laid.canvases[laid.layout.slice_of(scale)], patch, self.settings.normalise)
            rows[scale] = masked_error(predicted, to_tiles(pixels, scale), laid.kept[scale])
        loss = torch.stack(list(rows.values())).mean()
        numbers = {f"loss/x{scale}": value.detach() for scale, value in rows.items()}
        return loss / views, {**numbers, **health_of([unit(seen[1].cells.detach().mean(dim=1))])}

    @torch.no_grad()
    def _targets(self, pieces: list[Mapping[str, Any]]) -> dict[int, Tensor]:
        """view -> (images of all processes, E), L2-normalised: full-size images, all of them seen."""
        found = {}
        for view in VIEWS:
            with self.autocast():
                own = [unit(self.target.encode_top(self.images(piece["views"][view, 1]))) for piece in pieces]
            found[view] = all_gather_rows(torch.cat(own)).flatten(0, 1)
        return found

    def _pulled(
        self, laid: Laid, seen: Mapping[int, Visible], targets: Tensor, first: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """MCL's loss of one view: each tile's visible cells against the other view's full-size images.

        Args:
            targets: (images of all processes, E).
            first: place of the micro-batch's first image among them.
        """
        pyramid, maps = self.trunk.backbone.fpn, {}
        with self.autocast():
            for scale in sorted(self.scales, reverse=True):
                level = self.trunk.spec.level_of(scale)
                maps[scale] = pyramid.levels([self._filled(seen[scale])], {level: slice(None)})[level]
            embeddings = self.online["encoder"].read(maps).embeddings
            predictions = {s: self.online["predictor"][str(s)](e) for s, e in embeddings.items()}
        labels, numbers, total = torch.arange(len(targets), device=targets.device), {}, 0.0
        for scale, predicted in predictions.items():
            own = laid.labels[scale].to(targets.device, non_blocking=True) + first
            level = contrast(predicted, own, targets, labels, self.settings.temperature, self.weights[scale])
            name, total = LEVELS[self.trunk.spec.level_of(scale)], total + level.loss
            numbers |= {f"loss/{name}": 2 * level.loss.detach(), f"accuracy/{name}": level.accuracy, "chance": level.chance}
        return total, numbers

    def _filled(self, visible: Visible) -> Tensor:
        """Visible cells at their places, what stands for masked ones elsewhere: (B, D, H, W)."""
        body, tiles, cells = self.trunk.backbone.body, visible.tiles, visible.cells
        height, width = (side // tiles for side in body.grid)
        absent = self.online["absent"]["cell"].to(cells.dtype).expand(len(cells), height * width, body.channels)
        placed = absent.scatter(1, visible.places[..., None].expand_as(cells), cells)
        placed = placed.unflatten(1, (height, width)).unflatten(0, (-1, tiles, tiles))  # (B, s, s, h, w, D)
        return placed.transpose(2, 3).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def _require(trunk: Trunk, settings: MaeSettings) -> PlainVit:
    """The backbone, which must be one that patches can be left away of.

    Raises:
        UserError: which setting asks for what it cannot do.
    """
    body, size = trunk.backbone.body, trunk.spec.image_size
    if not isinstance(body, PlainVit):
        raise UserError(f"--method.name mae: {trunk.spec.backbone} is no plain transformer (vit_tiny_patch16_224 is one)")
    if trunk.spec.attention_window:
        raise UserError("--method.name mae: visible patches fill no windows; leave --model.attention_window away")
    finest = max(settings.used_scales)
    if size // finest % body.stride or (size // finest // body.stride) ** 2 < LEAST_CELLS:
        raise UserError(
            f"--method.scales: a tile of {size // finest} px holds less than {LEAST_CELLS} whole patches of {body.stride} px; use "
            "fewer scales, a larger --image_size or a smaller --model.patch_size"
        )
    return body
