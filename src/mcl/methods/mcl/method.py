"""Multi-level contrastive learning (arXiv 2304.02010)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mcl.config.pretrain import ViewSettings
from mcl.data.computed import Survey
from mcl.data.loading.views import Fields, Wanted
from mcl.engine.processes.distributed import all_gather_rows, rank
from mcl.errors import UserError
from mcl.methods.base import mean_numbers, split_batch
from mcl.methods.class_folders import class_field
from mcl.methods.level_encoder import Read
from mcl.methods.level_loss import total_loss
from mcl.methods.mcl.canvases import MclCanvases
from mcl.methods.mcl.dense import dense_loss
from mcl.methods.mcl.micro_batches import MicroBatch, Targets, everyones, relabelled
from mcl.methods.mcl.numbers import level_numbers
from mcl.methods.mcl.picture import captions, draw_canvases, montages, scattered, tiles_apart
from mcl.methods.mcl.regions import boxes_anywhere
from mcl.methods.mcl.scattered import tile_side
from mcl.methods.mcl.settings import MclSettings
from mcl.methods.mcl.siamese import simsiam_losses, vicreg_losses
from mcl.methods.mcl.tiles import VIEWS, other_view, tile_specs, tiles_of
from mcl.methods.mcl.variants import variants_of
from mcl.methods.montage import uneven_tiles
from mcl.methods.objectness import ObjectSearch
from mcl.methods.proposals import BYTES, MOST, Proposals, require_selective_search
from mcl.nn.pyramid import LEVELS
from mcl.nn.vit import PlainVit
from mcl.randomness import STREAM_VIEWS, generator_for


class Mcl(MclCanvases):
    """Tiles of two views, laid as the settings say, and the loss between the networks that see them."""

    advice = {
        **dict.fromkeys(
            ("collapse_spread", "collapse_rank"),
            "try a lower --optim.lr, more --schedule.warmup_steps or a lower --method.temperature",
        ),
        "dead_level": "its tiles may be too small to show anything; try a larger --image_size, more weight in "
        "--method.level_weights, or --method.scales without its scale",
    }

    @classmethod
    def wanted(cls, settings: MclSettings, views: ViewSettings, image_size: int) -> Wanted:
        side = tile_side if settings.layout == "scattered" else None
        specs = tile_specs(settings.scales, image_size, views.downsample == "stride", side)
        return Wanted(specs, geometry=settings.dense_weight > 0 or settings.regions_weight > 0)

    @classmethod
    def fields(cls, settings: MclSettings, survey: Survey) -> Fields | None:
        if settings.labels:
            return class_field
        if not settings.regions_weight:
            return None
        require_selective_search("--method.regions_weight")
        kept = survey.of_each("regions", ObjectSearch(settings.regions))
        counts = kept.lengths() // BYTES
        survey.say(f"regions: {counts.mean():.1f} an image; {(counts == 0).sum():,} images have none")
        return Proposals(kept)

    @classmethod
    def example_batch(
        cls, settings: MclSettings, views: ViewSettings, image_size: int, images: int, seed: int,
        device: torch.device | str,
    ) -> dict[str, Any]:  # fmt: skip
        batch = super().example_batch(settings, views, image_size, images, seed, device)
        if settings.labels:
            batch["fields"] = {"class": torch.arange(images, device=device) // 2}
        if settings.dense_weight or settings.regions_weight:
            whole = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0], device=device)
            batch["crops"] = {key: whole.repeat(images, 1) for key in batch["views"]}
        if settings.regions_weight:
            boxes = boxes_anywhere((images, MOST), 1, generator_for(STREAM_VIEWS, seed))
            batch["fields"] = {"boxes": boxes.to(device), "count": torch.full((images,), settings.regions, device=device)}
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
        drawn, own, dense, only = [], [], {}, len(pieces) == 1
        for number, piece in pieces.items():
            whole = self.draw_micro_batch(piece, step, number)
            reads = self.read_targets(whole)
            own.append(whole.label({view: read.embeddings for view, read in reads.items()}))
            if self.settings.dense_weight:
                with self.autocast():
                    dense[number] = {view: self.dense_targets(read) for view, read in reads.items()}
            del reads
            drawn.append(whole if only else replace(whole, canvases={}))  # or all would be in memory at once
        self._fresh, health = everyones(own)
        targets = relabelled(self._fresh, classes)
        # With the targets known, one view's loss asks for nothing of the other's: its activations can go before
        # those of the other come. (Exhaustive encoding keeps both, as the authors' code does.)
        together = self.backward_passes(1) == 1
        for one in drawn:
            whole = one if one.canvases else self.draw_micro_batch(pieces[one.number], step, one.number)
            for views in (VIEWS,) if together else [(view,) for view in VIEWS]:
                loss, numbers = self.view_losses(whole, targets, views, classes, dense.get(one.number))
                yield loss / len(pieces), {**health, **numbers}

    def classes_of(self, batch: Mapping[str, Any], step: int) -> Tensor | None:
        """(images of all processes,) class of each image, by its number over all processes; none without labels.

        Raises:
            UserError: in the first step, if there is only one.
        """
        if not self.settings.labels:
            return None
        own = batch["fields"]["class"].to(next(self.parameters()).device, non_blocking=True)
        classes = all_gather_rows(own).flatten()
        if step == 0 and not classes.is_meta and (classes == classes[0]).all():
            raise UserError(
                f"--method.labels: all {len(classes)} images of the first batch lie in one folder; "
                "labels need a folder for each class"
            )
        return classes

    def own_targets(self, own: MicroBatch) -> dict[int, Targets]:
        """view -> the micro-batch's own target embeddings, labelled by image over all micro-batches."""
        return own.label({view: read.embeddings for view, read in self.read_targets(own).items()})

    def read_targets(self, own: MicroBatch) -> dict[int, Read]:
        """view -> what the target network makes of it."""
        with self.autocast():
            return {view: self.read_target(own, view) for view in VIEWS}

    def view_losses(
        self,
        own: MicroBatch,
        targets: Mapping[int, Targets],
        views: Sequence[int] = VIEWS,
        classes: Tensor | None = None,
        dense_targets: Mapping[int, Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss of views of the micro-batch, numbers to log).

        Micro-batches have equally many tiles of a scale, and each tile finds its image among the targets (its own
        scale's tiles show the same images in both views), so the mean over them is the joint batch's loss.

        Args:
            own: whose tiles the online network predicts.
            targets: view -> targets of all micro-batches.
            views: whose tiles.
            classes: of ``classes_of``; the targets are then labelled by class.
            dense_targets: view -> (images, E, w, w) of the micro-batch's own images.
        """
        with self.autocast():
            reads = {view: self.read_online(own, view) for view in views}
            predictions = {view: self.predict(read.embeddings) for view, read in reads.items()}
            extra = [self.localised(own, view, read) for view, read in reads.items()] if self.settings.localise else []
            extra += [self.regions(own, view, read) for view, read in reads.items() if view in own.regions]
            if dense_targets is not None:
                extra += [self.dense(own, view, read, dense_targets[other_view(view)]) for view, read in reads.items()]
        levels = self.compare(own, predictions, targets, classes)
        loss = total_loss(list(levels.values())) + sum(term for term, _ in extra)
        return loss, {**level_numbers(levels, self.level_names), **(mean_numbers([row for _, row in extra]) if extra else {})}

    def localised(self, own: MicroBatch, view: int, read: Read) -> tuple[Tensor, dict[str, Tensor]]:
        """(weighted loss of finding one view's tiles, half of that of both; numbers to log)."""
        maps = {scale: found for scale, found in read.maps.items() if scale > 1}
        loss, numbers = self.online["localiser"](self.trunk, maps, own.boxes[view], own.jittered[view])
        return self.settings.localise_weight * loss / len(VIEWS), numbers

    def regions(self, own: MicroBatch, view: int, read: Read) -> tuple[Tensor, dict[str, Tensor]]:
        """(weighted loss of finding the regions of one view's full-size images; numbers to log)."""
        loss, numbers = self.online["regions"](self.trunk, read.whole, own.regions[view])
        return self.settings.regions_weight * loss, numbers

    def dense(self, own: MicroBatch, view: int, read: Read, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(weighted loss of one view's cells against those of the other's full-size images; numbers to log)."""
        rows, target_crops = {}, own.crops[other_view(view)][1]
        for scale, found in self.dense_predictions(read).items():
            images = own.shuffles[view].labels[scale].to(targets.device, non_blocking=True)
            rows[scale] = dense_loss(found, targets[images], own.crops[view][scale][images], target_crops[images])
        loss = sum(self.weights[scale] * term for scale, (term, _) in rows.items())
        numbers = {f"dense/{self.level_names[scale]}": term.detach() for scale, (term, _) in rows.items()}
        numbers["dense/shared"] = torch.stack([share for _, share in rows.values()]).mean()
        return self.settings.dense_weight * loss, numbers

    def draw_first_batch(self, folder: Path, batch: Mapping[str, Any]) -> Path:
        images, layout, blocks = len(batch["index"]), self.settings.layout, {}
        for view in VIEWS:
            shown = tiles_of(batch["views"], view), self.draw_shuffle(images, 0, view)
            if layout == "scattered":
                blocks[view] = scattered(*shown, self.draw_places(images, 0, view))
            else:
                blocks[view] = {"montage": montages, "batch": tiles_apart}[layout](*shown)
        return draw_canvases(folder / "montage.png", blocks, captions(self.trunk.spec.image_size, self.scales, layout))

    def notes(self, images: int) -> list[str]:
        montages = self.montages(images)
        lines = ["canvases a view: " + ", ".join(f"{count} of scale {scale}" for scale, count in montages.items())]
        if self.settings.layout == "batch":
            tiles = (f"{count * s * s} of scale {s}" for s, count in montages.items())
            lines = [f"images a view, each tile one: {', '.join(tiles)}"]
        if uneven := uneven_tiles(montages):
            lines.append(f"{images} images do not fill whole montages, so they are tiles unequally often ({uneven})")
        body, size = self.trunk.backbone.body, self.trunk.spec.image_size
        if isinstance(body, PlainVit) and (cut := [s for s in self.scales if size // s % body.stride]):
            scales = ", ".join(map(str, cut))
            lines.append(f"patches of {body.stride} px do not divide the tiles of scale {scales}: some show parts of several")
        if untrained := [level for level in LEVELS if level not in self.trained_parts]:
            lines.append(f"nothing is read from the pyramid's {', '.join(untrained)}: not trained")
        return lines

    @classmethod
    def variants(cls, settings: MclSettings) -> dict[str, MclSettings]:
        return variants_of(settings)

    def gathered_numbers(self, images: int) -> int:
        montages = self.montages(images)
        return len(VIEWS) * self.model.embedding * sum(montages[s] * s * s for s in self.target_scales)
