"""DetCon_B (arXiv 2103.10957)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead
from torch import Tensor, nn

from mcl.config.pretrain import ViewSettings
from mcl.data.computed import Survey
from mcl.data.loading.views import Fields, ViewSpec, Wanted
from mcl.engine.processes.distributed import all_gather_rows, rank
from mcl.methods.base import split_batch
from mcl.methods.detconb.loss import Regions, contrastive_detection
from mcl.methods.detconb.masks import cells_of, draw_masks
from mcl.methods.detconb.picture import tinted
from mcl.methods.detconb.segments import MOST, SIZE, Felzenszwalb, Segments
from mcl.methods.detconb.settings import DetConBSettings
from mcl.methods.health import health_of
from mcl.methods.losses import unit
from mcl.methods.online_target import OnlineAndTarget, mean_over_maps
from mcl.methods.regions import uniform
from mcl.methods.views_picture import draw_views
from mcl.nn.momentum import momentum_at, move_target
from mcl.randomness import STREAM_VIEWS, generator_for

VIEWS = (1, 2)
Masks = dict[int, tuple[Tensor, Tensor]]  # view -> (N, M) segments, (N, M, cells) weights


class DetConB(OnlineAndTarget):
    """Masked pooling of every map; BYOL's networks, a contrastive loss over the segments of all processes."""

    passes = len(VIEWS)  # with the targets known, one view's loss asks for nothing of the other's
    advice = dict.fromkeys(
        ("collapse_spread", "collapse_rank"), "try a lower --method.temperature, a lower --optim.lr or a larger --batch"
    )

    @classmethod
    def wanted(cls, settings: DetConBSettings, views: ViewSettings, image_size: int) -> Wanted:
        return Wanted(
            tuple(ViewSpec((view, 1), image_size, style) for style, view in enumerate(VIEWS)), geometry=True
        )

    @classmethod
    def fields(cls, settings: DetConBSettings, survey: Survey) -> Fields:
        compute = Felzenszwalb(settings.segment_scale, settings.segment_min, settings.segment_side)
        return Segments(survey.of_each("segments", compute))

    @classmethod
    def example_batch(
        cls, settings: DetConBSettings, views: ViewSettings, image_size: int, images: int, seed: int,
        device: torch.device | str,
    ) -> dict[str, Any]:  # fmt: skip
        batch = super().example_batch(settings, views, image_size, images, seed, device)
        blocks = torch.randint(0, 12, (images, 4, 4), generator=generator_for(STREAM_VIEWS, seed), dtype=torch.uint8)
        segments = blocks.repeat_interleave(SIZE // 4, 1).repeat_interleave(SIZE // 4, 2)
        return {**batch, "fields": {"segments": segments.to(device)}}

    def build_heads(self, channels: int) -> dict[str, nn.Module]:
        return {"project": BYOLProjectionHead(channels, self.settings.hidden, self.settings.embedding)}

    def build_predictor(self) -> dict[str, nn.Module]:
        width = self.settings.embedding
        return {"predict": BYOLPredictionHead(width, self.settings.hidden, width)}

    def losses(
        self, batch: Mapping[str, Any], step: int, micro_batches: int = 1
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        pieces = split_batch(batch, micro_batches)
        drawn = [self.draw(piece, step) for piece in pieces]
        # Targets of the whole batch first: they need no gradient, and every segment is compared with all of them.
        targets = self._everyones([self._targets(piece, masks) for piece, masks in zip(pieces, drawn, strict=True)])
        health = health_of([of_map.embeddings.flatten(0, 1) for view in VIEWS for of_map in targets[view]])
        images = len(pieces[0]["index"])
        for number, (piece, masks) in enumerate(zip(pieces, drawn, strict=True)):
            first = (rank() * micro_batches + number) * images
            for view, other in (VIEWS, VIEWS[::-1]):
                with self.autocast():
                    found = self._embed(self.online, piece, view, masks[view][1], self.predictor["predict"])
                rows = [
                    contrastive_detection(
                        Regions(e, masks[view][0]), targets[view][i], targets[other][i], first, self.settings.temperature
                    )
                    for i, e in enumerate(found)
                ]
                loss, numbers = mean_over_maps(self.features.names, rows)
                chance = numbers[f"chance/{self.features.names[0]}"]  # the same segments are drawn for all maps
                kept = {name: value for name, value in numbers.items() if not name.startswith("chance/")}
                told = {name: len(VIEWS) * value if name.startswith("loss/") else value for name, value in kept.items()}
                yield loss / micro_batches, {**health, **told, "chance": chance}

    def draw(self, batch: Mapping[str, Any], step: int) -> Masks:
        """Segments of each view that this step looks at: a function of (seed, step, view, image)."""
        window, device = self.trunk.spec.window, next(self.parameters()).device
        segments, found = batch["fields"]["segments"].to(device, non_blocking=True), {}
        for view in VIEWS:
            chances = uniform(batch["index"], self.settings.masks, self.seed, step, view)
            cells = cells_of(segments, batch["crops"][view, 1].to(device, non_blocking=True), window, MOST)
            found[view] = draw_masks(cells, chances.to(device, non_blocking=True), MOST)
        return found

    def after_update(self, step: int, total_steps: int) -> None:
        move_target(self.target, self.online, momentum_at(step, total_steps, self.settings.momentum))

    def gathered_numbers(self, images: int) -> int:
        return len(VIEWS) * images * self.settings.masks * (len(self.features.names) * self.settings.embedding + 1)

    def draw_first_batch(self, folder: Path, batch: Mapping[str, Any]) -> Path:
        return draw_views(
            folder / "views.png", tinted(batch["views"], batch["crops"], batch["fields"]["segments"])
        )

    def _targets(self, batch: Mapping[str, Any], masks: Masks) -> dict[int, list[Regions]]:
        with torch.no_grad(), self.autocast():
            return {
                view: [Regions(e, masks[view][0]) for e in self._embed(self.target, batch, view, masks[view][1])]
                for view in VIEWS
            }

    def _everyones(self, own: list[dict[int, list[Regions]]]) -> dict[int, list[Regions]]:
        """view -> of each map: targets of all micro-batches of all processes."""
        found = {}
        for view in VIEWS:
            numbers = all_gather_rows(torch.cat([piece[view][0].numbers for piece in own])).flatten(0, 1)
            found[view] = [
                Regions(all_gather_rows(torch.cat([piece[view][i].embeddings for piece in own])).flatten(0, 1), numbers)
                for i in range(len(self.features.names))
            ]
        return found

    def _embed(
        self, network: nn.ModuleDict, batch: Mapping[str, Any], view: int, weights: Tensor, predict: nn.Module | None = None
    ) -> list[Tensor]:
        """Of each map: (N, M, E) embeddings of the masks, L2-normalised."""
        n, m, _ = weights.shape
        found = []
        for maps in network["features"](self.images(batch["views"][view, 1])):
            cells = maps.flatten(start_dim=2).transpose(1, 2)  # (N, C, w, w) -> (N, cells, C)
            embedded = network["project"]((weights.to(cells.dtype) @ cells).flatten(0, 1))
            found.append(unit(predict(embedded) if predict else embedded).view(n, m, -1))
        return found
