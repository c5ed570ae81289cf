"""Multi-level contrastive learning (arXiv 2304.02010)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from mcl.config.pretrain import ModelSettings, ViewSettings
from mcl.data.loading.views import Wanted
from mcl.engine.processes.distributed import rank
from mcl.methods.base import split_batch
from mcl.methods.health import health_of
from mcl.methods.mcl.assignment import gather_targets, target_scales
from mcl.methods.mcl.loss import LevelLoss, contrast, level_weights, total_loss
from mcl.methods.mcl.micro_batches import MicroBatch, Targets, gather_over_processes, join_targets
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
from mcl.methods.mcl.tiles import VIEWS, tile_specs, tiles_of
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
        return Wanted(tile_specs(settings.scales, image_size, views.downsample == "stride"))

    def backward_passes(self, micro_batches: int) -> int:
        return micro_batches * (1 if self.settings.encode == "exhaustive" else len(VIEWS))

    def losses(
        self, batch: Mapping[str, Any], step: int, micro_batches: int = 1
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        first = rank() * micro_batches
        pieces = {first + i: piece for i, piece in enumerate(split_batch(batch, micro_batches))}
        # Targets of the whole batch first: they need no gradient, and every tile is compared with all of them.
        drawn, own = [], []
        for number, piece in pieces.items():
            whole = self.draw_micro_batch(piece, step, number)
            own.append(self.own_targets(whole))
            drawn.append(whole if micro_batches == 1 else replace(whole, canvases={}))  # or all would be in memory at once
        targets, health = everyones(own)
        # With the targets known, one view's loss asks for nothing of the other's: its activations can go before
        # those of the other come. (Exhaustive encoding keeps both, as the authors' code does.)
        together = self.backward_passes(1) == 1
        for one in drawn:
            whole = one if one.canvases else self.draw_micro_batch(pieces[one.number], step, one.number)
            for views in (VIEWS,) if together else [(view,) for view in VIEWS]:
                levels = self.level_losses(whole, targets, views)
                yield total_loss(list(levels.values())) / micro_batches, {**health, **level_numbers(levels, self.scales)}

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
        found = {}
        with self.autocast():
            for view in VIEWS:
                embeddings = self.target_embeddings(own.canvases[view], self.layout(own.shuffles[view]))
                labels = {scale: own.labels(view, scale).to(e.device) for scale, e in embeddings.items()}
                found[view] = Targets(embeddings, labels)
        return found

    def level_losses(
        self, own: MicroBatch, targets: Mapping[int, Targets], views: Sequence[int] = VIEWS
    ) -> dict[tuple[int, int], LevelLoss]:
        """(view, scale) -> the loss of the micro-batch's tiles against the targets of all.

        Micro-batches have equally many tiles of a scale, and each tile finds its image among the targets (its own
        scale's tiles show the same images in both views), so the mean over them is the joint batch's loss.

        Args:
            own: whose tiles the online network predicts.
            targets: view -> targets of all micro-batches.
            views: whose tiles.
        """
        with self.autocast():
            predictions = {
                view: self.predictions(own.canvases[view], self.layout(own.shuffles[view]))
                for view in views
            }
        levels = {}
        for view in views:
            for scale in self.scales:
                embeddings, labels = self._wanted(targets[_other(view)], scale)
                levels[view, scale] = contrast(
                    predictions[view][scale], own.labels(view, scale).to(embeddings.device), embeddings, labels,
                    self.settings.temperature, self.weights[scale],
                )  # fmt: skip
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

    def _wanted(self, targets: Targets, scale: int) -> tuple[Tensor, Tensor]:
        """Embeddings and labels of the targets that tiles of ``scale`` are compared with."""
        scales = target_scales(self.settings.assignment, scale, self.scales)
        return gather_targets(targets.embeddings, targets.labels, scales)


def everyones(own: Sequence[Mapping[int, Targets]]) -> tuple[dict[int, Targets], dict[str, Tensor]]:
    """Everyone's targets, with which this process's micro-batches are compared; and how far they are from a collapse."""
    targets = gather_over_processes(join_targets(own))
    return targets, health_of([targets[view].embeddings[1] for view in VIEWS])


def _other(view: int) -> int:
    return VIEWS[1] if view == VIEWS[0] else VIEWS[0]
