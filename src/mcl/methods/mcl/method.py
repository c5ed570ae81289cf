"""Multi-level contrastive learning (arXiv 2304.02010)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mcl.config.pretrain import ModelSettings, ViewSettings
from mcl.data.loading.views import Wanted
from mcl.engine.processes.distributed import all_gather_rows, rank
from mcl.errors import UserError
from mcl.methods.base import split_batch
from mcl.methods.class_folders import class_of
from mcl.methods.mcl.loss import LevelLoss, contrast, level_weights, regress, total_loss
from mcl.methods.mcl.micro_batches import MicroBatch, Targets, everyones, relabelled
from mcl.methods.mcl.montage import (
    Shuffle,
    assemble,
    count_montages,
    draw_permutation,
    shuffle_from,
    stack,
    uneven_tiles,
)
from mcl.methods.mcl.networks import MclNetworks
from mcl.methods.mcl.numbers import level_numbers
from mcl.methods.mcl.picture import draw_montages
from mcl.methods.mcl.settings import MclSettings
from mcl.methods.mcl.siamese import simsiam_losses, vicreg_losses
from mcl.methods.mcl.tiles import VIEWS, other_view, tile_specs, tiles_of
from mcl.methods.mcl.variants import variants_of
from mcl.nn.pyramid import LEVELS
from mcl.nn.trunk import Trunk
from mcl.randomness import STREAM_MONTAGE, generator_for


class Mcl(MclNetworks):
    """Tiles of two views, laid as the settings say, and the loss between the networks that see them."""

    advice = {
        **dict.fromkeys(
            ("collapse_spread", "collapse_rank"),
            "try a lower --optim.lr, more --schedule.warmup_steps or a lower --method.temperature",
        ),
        "dead_level": "its tiles may be too small to show anything; try a larger --image_size, more weight in "
        "--method.level_weights, or --method.scales without its scale",
    }

    def __init__(
        self, trunk: Trunk, model: ModelSettings, settings: MclSettings, seed: int, precision: str = "fp32",
        channels_last: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(trunk, model, settings, seed, precision, channels_last)
        self.weights = dict(
            zip(self.scales, settings.level_weights or level_weights(len(self.scales)), strict=True)
        )

    @classmethod
    def wanted(cls, settings: MclSettings, views: ViewSettings, image_size: int) -> Wanted:
        specs = tile_specs(settings.scales, image_size, views.downsample == "stride")
        return Wanted(specs, fields=class_of if settings.labels else None)

    @classmethod
    def example_batch(
        cls, settings: MclSettings, views: ViewSettings, image_size: int, images: int, seed: int,
        device: torch.device | str,
    ) -> dict[str, Any]:  # fmt: skip
        batch = super().example_batch(settings, views, image_size, images, seed, device)
        if settings.labels:
            batch["fields"] = {"class": torch.arange(images, device=device) // 2}
        return batch

    def backward_passes(self, micro_batches: int) -> int:
        both_at_once = self.settings.encode == "exhaustive" or not self.settings.has_target
        return micro_batches * (1 if both_at_once else len(VIEWS))

    def losses(
        self, batch: Mapping[str, Any], step: int, micro_batches: int = 1
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        first = rank() * micro_batches
        pieces = {first + i: piece for i, piece in enumerate(split_batch(batch, micro_batches))}
        if self.settings.has_target:
            return self._against_targets(pieces, step, self.classes_of(batch, step))
        return {"simsiam": simsiam_losses, "vicreg": vicreg_losses}[self.settings.loss](self, pieces, step)

    def _against_targets(
        self, pieces: Mapping[int, Mapping[str, Any]], step: int, classes: Tensor | None
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        # Targets of the whole batch first: they need no gradient, and every tile is compared with all of them.
        drawn, own, only = [], [], len(pieces) == 1
        for number, piece in pieces.items():
            whole = self.draw_micro_batch(piece, step, number)
            own.append(self.own_targets(whole))
            drawn.append(whole if only else replace(whole, canvases={}))  # or all would be in memory at once
        self._fresh, health = everyones(own)
        targets = relabelled(self._fresh, classes)
        # With the targets known, one view's loss asks for nothing of the other's: its activations can go before
        # those of the other come. (Exhaustive encoding keeps both, as the authors' code does.)
        together = self.backward_passes(1) == 1
        for one in drawn:
            whole = one if one.canvases else self.draw_micro_batch(pieces[one.number], step, one.number)
            for views in (VIEWS,) if together else [(view,) for view in VIEWS]:
                levels = self.level_losses(whole, targets, views, classes)
                yield total_loss(list(levels.values())) / len(pieces), {**health, **level_numbers(levels, self.scales)}

    def classes_of(self, batch: Mapping[str, Any], step: int) -> Tensor | None:
        """(images of all processes,) class of each image, by its number over all processes; none without labels.

        Raises:
            UserError: in the first step, if there is only one.
        """
        if not self.settings.labels:
            return None
        own = batch["fields"]["class"].to(next(self.parameters()).device)
        classes = all_gather_rows(own).flatten()
        if step == 0 and not classes.is_meta and (classes == classes[0]).all():
            raise UserError(
                f"--method.labels: all {len(classes)} images of the first batch lie in one folder; "
                "labels need a folder for each class"
            )
        return classes

    def montages(self, batch: int) -> dict[int, int]:
        """scale -> number of montages of a view, for a batch on this process."""
        return count_montages(batch, self.scales, self.settings.repeats, self.settings.montages)

    def draw_micro_batch(self, batch: Mapping[str, Any], step: int, number: int) -> MicroBatch:
        """Draw the montages of one micro-batch of the global batch and lay its tiles into canvases.

        Args:
            batch: of ``collate_views``: the micro-batch's images.
            step: of the run.
            number: of the micro-batch; with one a process, its rank.
        """
        like, spec = next(self.parameters()), self.trunk.spec
        shuffles, canvases = {}, {}
        for view in VIEWS:
            shuffles[view] = self.draw_shuffle(len(batch["index"]), step, view, number)
            tiles = {s: t.to(like.device, non_blocking=True) for s, t in tiles_of(batch["views"], view).items()}
            lay = stack if self.settings.layout == "batch" else assemble
            canvases[view] = lay(tiles, shuffles[view], spec.mean, spec.std, like.dtype, self.channels_last)
        return MicroBatch(canvases, shuffles, number)

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

    def own_targets(self, own: MicroBatch) -> dict[int, Targets]:
        """view -> the micro-batch's own target embeddings, labelled by image over all micro-batches."""
        with self.autocast():
            return own.label(
                {view: self.target_embeddings(own.canvases[view], self.layout(own.shuffles[view])) for view in VIEWS}
            )

    def level_losses(
        self,
        own: MicroBatch,
        targets: Mapping[int, Targets],
        views: Sequence[int] = VIEWS,
        classes: Tensor | None = None,
    ) -> dict[tuple[int, int], LevelLoss]:
        """(view, scale) -> the loss of the micro-batch's tiles against the targets of all.

        Micro-batches have equally many tiles of a scale, and each tile finds its image among the targets (its own
        scale's tiles show the same images in both views), so the mean over them is the joint batch's loss.

        Args:
            own: whose tiles the online network predicts.
            targets: view -> targets of all micro-batches.
            views: whose tiles.
            classes: of ``classes_of``; the targets are then labelled by class.
        """
        with self.autocast():
            predictions = {
                view: self.predictions(own.canvases[view], self.layout(own.shuffles[view]))
                for view in views
            }
        return self.compare(own, predictions, targets, classes)

    def compare(
        self,
        own: MicroBatch,
        predictions: Mapping[int, Mapping[int, Tensor]],
        targets: Mapping[int, Targets],
        classes: Tensor | None = None,
    ) -> dict[tuple[int, int], LevelLoss]:
        """(view, scale) -> loss of predictions, view -> scale -> (tiles, E), against the other view's targets."""
        levels, settings = {}, self.settings
        for view, of_view in predictions.items():
            for scale in self.scales:
                embeddings, target_labels = self.compared_with(targets[other_view(view)], scale)
                labels = own.labels(view, scale).to(embeddings.device)
                labels = labels if classes is None else classes[labels]
                compared, weight = (of_view[scale], labels, embeddings, target_labels), self.weights[scale]
                levels[view, scale] = (
                    contrast(*compared, settings.temperature, weight)
                    if settings.loss == "infonce"
                    else regress(*compared, settings.loss, weight)
                )
        return levels

    def draw_first_batch(self, folder: Path, batch: Mapping[str, Any]) -> Path:
        shuffles = {view: self.draw_shuffle(len(batch["index"]), 0, view) for view in VIEWS}
        tiles = {view: tiles_of(batch["views"], view) for view in VIEWS}
        return draw_montages(folder / "montage.png", tiles, shuffles, apart=self.settings.layout == "batch")

    def notes(self, images: int) -> list[str]:
        montages = self.montages(images)
        lines = ["canvases a view: " + ", ".join(f"{count} of scale {scale}" for scale, count in montages.items())]
        if self.settings.layout == "batch":
            tiles = (f"{count * s * s} of scale {s}" for s, count in montages.items())
            lines = [f"images a view, each tile one: {', '.join(tiles)}"]
        if uneven := uneven_tiles(montages):
            lines.append(f"{images} images do not fill whole montages, so they are tiles unequally often ({uneven})")
        if untrained := LEVELS[: len(LEVELS) - len(self.scales)]:
            lines.append(f"without smaller scales, the pyramid's {', '.join(untrained)} are not trained")
        return lines

    @classmethod
    def variants(cls, settings: MclSettings) -> dict[str, MclSettings]:
        return variants_of(settings)

    def gathered_numbers(self, images: int) -> int:
        montages = self.montages(images)
        return len(VIEWS) * self.model.embedding * sum(montages[s] * s * s for s in self.target_scales)
