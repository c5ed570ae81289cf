"""Multi-level contrastive learning (arXiv 2304.02010)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcl.config.pretrain import MethodSettings, ModelSettings
from mcl.data.loading.views import VIEWS
from mcl.engine.processes.distributed import rank
from mcl.methods.base import Method
from mcl.methods.mcl.assignment import gather_targets, target_scales
from mcl.methods.mcl.encoder import Encoder, Layout
from mcl.methods.mcl.loss import LevelLoss, contrast, level_weights, total_loss
from mcl.methods.mcl.micro_batches import Part, Targets, gather_over_processes, join_targets, split_batch
from mcl.methods.mcl.montage import Shuffle, assemble, count_montages, draw_permutation, shuffle_from
from mcl.methods.mcl.numbers import health_of, level_numbers
from mcl.nn.heads import build_predictor
from mcl.nn.momentum import make_target, momentum_at, move_target
from mcl.nn.trunk import Trunk
from mcl.randomness import STREAM_MONTAGE, generator_for


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
    def trunks(self) -> list[Trunk]:
        return [self.trunk, self.target.trunk]

    @property
    def trained(self) -> nn.Module:
        return self.online

    def backward_passes(self, parts: int) -> int:
        return parts * (1 if self.settings.encode == "exhaustive" else len(VIEWS))

    def losses(
        self, batch: Mapping[str, Any], step: int, parts: int = 1
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        first = rank() * parts
        pieces = {first + i: piece for i, piece in enumerate(split_batch(batch, parts))}
        # Targets of the whole batch first: they need no gradient, and every tile is compared with all of them.
        drawn, own = [], []
        for number, piece in pieces.items():
            part = self.draw_part(piece, step, number)
            own.append(self.part_targets(part))
            drawn.append(part if parts == 1 else replace(part, canvases={}))  # or all would be in memory at once
        targets, health = self._everyones(own)
        # With the targets known, one view's loss asks for nothing of the other's: its activations can go before
        # those of the other come. (Exhaustive encoding keeps both, as the authors' code does.)
        together = self.backward_passes(1) == 1
        for part in drawn:
            whole = part if part.canvases else self.draw_part(pieces[part.number], step, part.number)
            for views in (VIEWS,) if together else [(view,) for view in VIEWS]:
                levels = self.part_levels(whole, targets, views)
                yield total_loss(list(levels.values())) / parts, {**health, **level_numbers(levels, self.scales)}

    def montages(self, batch: int) -> dict[int, int]:
        """scale -> number of montages of a view, for a batch on this process."""
        return count_montages(batch, self.scales, self.settings.repeats, self.settings.montages)

    def draw_part(self, batch: Mapping[str, Any], step: int, number: int) -> Part:
        """Draw the montages of one part of the global batch and lay its tiles into canvases.

        Args:
            batch: of ``collate_tiles``: the part's images.
            step: of the run.
            number: of the part; with one part a process, its rank.
        """
        device, spec = next(self.parameters()).device, self.trunk.spec
        shuffles, canvases = {}, {}
        for view in VIEWS:
            shuffles[view] = self.draw_shuffle(len(batch["index"]), step, view, number)
            tiles = {s: tile.to(device, non_blocking=True) for s, tile in batch["tiles"][view].items()}
            canvases[view] = assemble(
                tiles, shuffles[view], spec.mean, spec.std, channels_last=self.channels_last
            )
        return Part(canvases, shuffles, number)

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
        """Losses of every (view, scale) on this process, and ``spread`` and ``rank`` of all target embeddings.

        Their mean over the processes is the loss of the joint batch, and so is the mean of their gradients.

        Args:
            canvases: view -> (B, 3, S, S) in the order of ``assemble``.
            shuffles: view -> image of each tile.
        """
        part = Part(canvases, shuffles, rank())
        targets, health = self._everyones([self.part_targets(part)])
        return self.part_levels(part, targets), health

    def part_targets(self, part: Part) -> dict[int, Targets]:
        """view -> the part's own target embeddings, labelled by image over all parts."""
        found = {}
        with self._autocast(part):
            for view in VIEWS:
                embeddings = self.target_embeddings(part.canvases[view], self._layout(part.shuffles[view]))
                labels = {scale: part.labels(view, scale).to(e.device) for scale, e in embeddings.items()}
                found[view] = Targets(embeddings, labels)
        return found

    def part_levels(
        self, part: Part, targets: Mapping[int, Targets], views: Sequence[int] = VIEWS
    ) -> dict[tuple[int, int], LevelLoss]:
        """(view, scale) -> the loss of the part's tiles against the targets of all parts.

        Parts have equally many tiles of a scale, and each tile finds its image among the targets (its own scale's
        tiles show the same images in both views), so the mean over parts is the joint batch's loss.

        Args:
            part: whose tiles the online network predicts.
            targets: view -> targets of all parts.
            views: whose tiles.
        """
        with self._autocast(part):
            predictions = {
                view: self.predictions(part.canvases[view], self._layout(part.shuffles[view]))
                for view in views
            }
        levels = {}
        for view in views:
            for scale in self.scales:
                embeddings, labels = self._wanted(targets[_other(view)], scale)
                levels[view, scale] = contrast(
                    predictions[view][scale], part.labels(view, scale).to(embeddings.device), embeddings, labels,
                    self.settings.temperature, self.weights[scale],
                )  # fmt: skip
        return levels

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

    def _everyones(
        self, own: Sequence[Mapping[int, Targets]]
    ) -> tuple[dict[int, Targets], dict[str, Tensor]]:
        """Everyone's targets, with which this process's parts are compared; and how far they are from a collapse."""
        targets = gather_over_processes(join_targets(own))
        return targets, health_of([targets[view].embeddings[1] for view in VIEWS])

    def _wanted(self, targets: Targets, scale: int) -> tuple[Tensor, Tensor]:
        """Embeddings and labels of the targets that tiles of ``scale`` are compared with."""
        scales = target_scales(self.settings.assignment, scale, self.scales)
        return gather_targets(targets.embeddings, targets.labels, scales)

    def _autocast(self, part: Part) -> torch.autocast:
        device = part.canvases[VIEWS[0]].device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.precision == "bf16")

    def _predict(self, scale: int, embeddings: Tensor) -> Tensor:
        return self.online["predictors"][str(scale)](embeddings) if self.settings.predictor else embeddings

    def _layout(self, shuffle: Shuffle) -> Layout:
        return Layout(self.scales, tuple(len(shuffle.labels[s]) // s**2 for s in self.scales))


def own_windows(embeddings: Tensor, layout: Layout, scale: int) -> Tensor:
    """Of all canvases' windows on a scale's level, those of the scale's own montages: (B * s^2, E) -> (b * s^2, E)."""
    own: Sequence[int] | slice = layout.slice_of(scale)
    return embeddings[own.start * scale**2 : own.stop * scale**2]


def _other(view: int) -> int:
    return VIEWS[1] if view == VIEWS[0] else VIEWS[0]


def _at_least_fp32(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
