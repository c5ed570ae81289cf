"""Multi-level contrastive learning (arXiv 2304.02010)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcl.config.pretrain import MethodSettings, ModelSettings
from mcl.data.random import STREAM_MONTAGE, generator_for
from mcl.data.views import VIEWS
from mcl.methods.base import Method
from mcl.nn.encoder import Encoder, Layout
from mcl.nn.heads import build_predictor
from mcl.nn.momentum import make_target, momentum_at, move_target
from mcl.nn.trunk import Trunk
from mcl.pretext.assignment import gather_targets, target_scales
from mcl.pretext.loss import LevelLoss, contrast, embedding_rank, embedding_spread, level_weights, total_loss
from mcl.pretext.montage import Shuffle, assemble, count_montages, draw_permutation, shuffle_from

LEAST_IMAGES = 8  # fewer embeddings cannot lie in enough directions for their rank to tell anything


class Mcl(Method):
    """Online encoder and predictors, target encoder, and the loss between them."""

    def __init__(
        self,
        trunk: Trunk,
        model: ModelSettings,
        method: MethodSettings,
        seed: int,
        precision: str = "fp32",
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.settings, self.seed = method, seed
        self.precision, self.channels_last = precision, channels_last
        self.scales = tuple(method.scales)
        self.online = nn.ModuleDict({"encoder": Encoder(trunk, model.hidden, model.embedding)})
        self.target = make_target(self.online["encoder"])
        if method.predictor:
            predictors = {str(s): build_predictor(model.hidden, model.embedding) for s in self.scales}
            self.online["predictors"] = nn.ModuleDict(predictors)
        self.weights = dict(
            zip(self.scales, method.level_weights or level_weights(len(self.scales)), strict=True)
        )

    @property
    def trunk(self) -> Trunk:
        return self.online["encoder"].trunk

    @property
    def trained(self) -> nn.Module:
        return self.online

    def loss(self, batch: Mapping[str, Any], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        device = next(self.parameters()).device
        size = len(batch["index"])
        shuffles, canvases = {}, {}
        for view in VIEWS:
            shuffles[view] = self.draw_shuffle(size, step, view)
            tiles = {s: tile.to(device, non_blocking=True) for s, tile in batch["tiles"][view].items()}
            spec = self.trunk.spec
            canvases[view] = assemble(
                tiles, shuffles[view], spec.mean, spec.std, channels_last=self.channels_last
            )
        levels, health = self.compare(canvases, shuffles)
        loss = total_loss(list(levels.values()))
        return loss, self._numbers(levels, health)

    def montages(self, batch: int) -> dict[int, int]:
        """scale -> number of montages of a view, for a batch on this process."""
        return count_montages(batch, self.scales, self.settings.repeats, self.settings.montages)

    def draw_shuffle(self, batch: int, step: int, view: int, rank: int = 0) -> Shuffle:
        """Which image is on which tile: a function of (seed, step, rank, view, scale)."""
        montages = self.montages(batch)
        permutations = {
            scale: draw_permutation(
                scale, montages[scale], generator_for(STREAM_MONTAGE, self.seed, step, rank, view, scale)
            )
            for scale in self.scales
            if scale > 1
        }
        return shuffle_from(permutations, batch)

    def compare(
        self, canvases: Mapping[int, Tensor], shuffles: Mapping[int, Shuffle]
    ) -> tuple[dict[tuple[int, int], LevelLoss], dict[str, Tensor]]:
        """Losses of every (view, scale), and ``spread`` and ``rank`` of the target embeddings.

        Args:
            canvases: view -> (B, 3, S, S) in the order of ``assemble``.
            shuffles: view -> image of each tile.
        """
        layout = self._layout(shuffles[VIEWS[0]])
        device_type = canvases[VIEWS[0]].device.type
        with torch.autocast(device_type, torch.bfloat16, enabled=self.precision == "bf16"):
            targets = {view: self.target_embeddings(canvases[view], layout) for view in VIEWS}
            predictions = {view: self.predictions(canvases[view], layout) for view in VIEWS}
        levels = {}
        for view, other in zip(VIEWS, reversed(VIEWS), strict=True):
            for scale in self.scales:
                levels[view, scale] = self._level_loss(
                    scale, predictions[view], shuffles[view], targets[other], shuffles[other]
                )
        measures = {"spread": embedding_spread}
        if len(targets[VIEWS[0]][1]) >= LEAST_IMAGES:
            measures["rank"] = embedding_rank
        health = {
            name: torch.stack([measure(targets[view][1]) for view in VIEWS]).mean()
            for name, measure in measures.items()
        }
        return levels, health

    def predictions(self, canvases: Tensor, layout: Layout) -> dict[int, Tensor]:
        """scale -> (tiles, E): the online network's prediction for every tile, not normalised."""
        encoder = self.online["encoder"]
        if self.settings.encode == "exhaustive":
            everything = encoder.encode_exhaustive(canvases, layout)
            return {s: self._predict(s, own_windows(e, layout, s)) for s, e in everything.items()}
        embeddings = encoder.encode_matched(canvases, layout, self.scales)
        return {scale: self._predict(scale, embedding) for scale, embedding in embeddings.items()}

    @torch.no_grad()
    def target_embeddings(self, canvases: Tensor, layout: Layout) -> dict[int, Tensor]:
        """scale -> (tiles, E), L2-normalised: the target network's embeddings that the assignment asks for."""
        wanted = sorted(
            {t for s in self.scales for t in target_scales(self.settings.assignment, s, self.scales)} | {1}
        )
        if self.settings.encode == "exhaustive":
            everything = self.target.encode_exhaustive(canvases, layout)
            embeddings = {s: own_windows(everything[s], layout, s) for s in wanted}
        elif wanted == [1]:
            full_size = layout.slice_of(1)
            seen = canvases[full_size] if self.settings.target_canvases == "full" else canvases
            embeddings = {1: self.target.encode_top(seen)[full_size]}
        else:
            embeddings = self.target.encode_matched(canvases, layout, wanted)
        return {
            scale: F.normalize(embedding.to(_at_least_fp32(embedding)), dim=1)
            for scale, embedding in embeddings.items()
        }

    def after_update(self, step: int, total_steps: int) -> None:
        move_target(
            self.target, self.online["encoder"], momentum_at(step, total_steps, self.settings.momentum)
        )

    def _level_loss(
        self,
        scale: int,
        predictions: Mapping[int, Tensor],
        shuffle: Shuffle,
        targets: Mapping[int, Tensor],
        other: Shuffle,
    ) -> LevelLoss:
        wanted = target_scales(self.settings.assignment, scale, self.scales)
        embeddings, labels = gather_targets(targets, other.labels, wanted)
        device = embeddings.device
        return contrast(
            predictions[scale], shuffle.labels[scale].to(device), embeddings, labels.to(device),
            self.settings.temperature, self.weights[scale],
        )  # fmt: skip

    def _predict(self, scale: int, embeddings: Tensor) -> Tensor:
        return self.online["predictors"][str(scale)](embeddings) if self.settings.predictor else embeddings

    def _layout(self, shuffle: Shuffle) -> Layout:
        return Layout(self.scales, tuple(len(shuffle.labels[s]) // s**2 for s in self.scales))

    def _numbers(
        self, levels: Mapping[tuple[int, int], LevelLoss], health: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        numbers = dict(health)
        for scale in self.scales:
            both = [levels[view, scale] for view in VIEWS]
            name = f"p{Layout.level_of(scale) + 2}"
            numbers[f"loss/{name}"] = torch.stack([level.loss.detach() for level in both]).sum()
            numbers[f"positive_cosine/{name}"] = torch.stack([level.positive_cosine for level in both]).mean()
            numbers[f"negative_cosine/{name}"] = torch.stack([level.negative_cosine for level in both]).mean()
            numbers[f"accuracy/{name}"] = torch.stack([level.accuracy for level in both]).mean()
        numbers["chance"] = torch.stack([level.chance for level in levels.values()]).mean()
        return numbers


def own_windows(embeddings: Tensor, layout: Layout, scale: int) -> Tensor:
    """Of all canvases' windows on a scale's level, those of the scale's own montages: (B * s^2, E) -> (b * s^2, E)."""
    own: Sequence[int] | slice = layout.slice_of(scale)
    return embeddings[own.start * scale**2 : own.stop * scale**2]


def _at_least_fp32(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
