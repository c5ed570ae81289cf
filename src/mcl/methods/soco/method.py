"""SoCo (arXiv 2106.02637)."""

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
from mcl.methods.base import split_batch
from mcl.methods.health import health_of
from mcl.methods.losses import regression, unit
from mcl.methods.online_target import OnlineAndTarget
from mcl.methods.proposals import BYTES, MOST, Proposals, SelectiveSearch, require_selective_search
from mcl.methods.regions import uniform
from mcl.methods.soco.boxes import JITTERS, choose, in_view, jitter
from mcl.methods.soco.objects import ObjectFeatures
from mcl.methods.soco.picture import outlined
from mcl.methods.soco.settings import SocoSettings
from mcl.methods.views_picture import draw_views
from mcl.nn.momentum import momentum_at, move_target
from mcl.nn.pyramid import LEVELS
from mcl.nn.trunk import Trunk
from mcl.randomness import STREAM_VIEWS, generator_for

WHOLE, CROPS = 1, (2, 3)  # views; the last one is half as large
VIEWS = (WHOLE, *CROPS)


class Soco(OnlineAndTarget):
    """The whole image predicts the objects of both crops, and each crop those of the whole image."""

    passes = len(VIEWS)  # one online view at a time

    @classmethod
    def wanted(cls, settings: SocoSettings, views: ViewSettings, image_size: int) -> Wanted:
        whole = ViewSpec((WHOLE, 1), image_size, 0, (1.0, 1.0))
        crops = (ViewSpec((view, 1), image_size // n, 1, settings.crop_scale) for n, view in enumerate(CROPS, start=1))
        return Wanted((whole, *crops), geometry=True)

    @classmethod
    def fields(cls, settings: SocoSettings, survey: Survey) -> Fields:
        require_selective_search("--method.name soco")
        compute = SelectiveSearch(
            settings.proposal_scale, settings.proposal_size, settings.proposal_ratio, settings.proposal_side
        )
        kept = survey.of_each("proposals", compute)
        counts = kept.lengths() // BYTES
        without = f"; {(counts == 0).sum():,} images have none: there the part that all views show is the object"
        survey.say(f"proposals: {counts.mean():.1f} an image{without if (counts == 0).any() else ''}")
        return Proposals(kept)

    @classmethod
    def example_batch(
        cls, settings: SocoSettings, views: ViewSettings, image_size: int, images: int, seed: int,
        device: torch.device | str,
    ) -> dict[str, Any]:  # fmt: skip
        batch = super().example_batch(settings, views, image_size, images, seed, device)
        chances = torch.rand(images, MOST, 4, generator=generator_for(STREAM_VIEWS, seed))
        least, most = settings.proposal_size
        sides = least + (most - least) * chances[..., :2]
        first = (1 - sides) * chances[..., 2:]
        boxes = torch.cat([first, first + sides], dim=-1)
        count = torch.full((images,), MOST)
        return {**batch, "fields": {"boxes": boxes.to(device), "count": count.to(device)}}

    def build_features(self, trunk: Trunk) -> ObjectFeatures:
        return ObjectFeatures(trunk, self.settings.parts)

    def build_heads(self, channels: int) -> dict[str, nn.Module]:
        return {"project": BYOLProjectionHead(channels, self.settings.hidden, self.settings.embedding)}

    def build_predictor(self) -> dict[str, nn.Module]:
        width = self.settings.embedding
        return {"predict": BYOLPredictionHead(width, self.settings.hidden, width)}

    def losses(
        self, batch: Mapping[str, Any], step: int, micro_batches: int = 1
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        for piece in split_batch(batch, micro_batches):
            boxes = self.draw(piece, step)
            with torch.no_grad(), self.autocast():
                targets = {view: self._embed(self.target, piece, boxes, view) for view in VIEWS}
            health = health_of([unit(target) for target in targets.values()])
            for view in VIEWS:
                with self.autocast():
                    predicted = self.predictor["predict"](self._embed(self.online, piece, boxes, view))
                others = CROPS if view == WHOLE else (WHOLE,)
                # Equations 3 to 6; BYOL's 2 - 2 cos in place of - 2 cos, so that it ends at 0.
                each = [regression(predicted, targets[other]) for other in others]
                cosine = 1 - torch.stack(each).mean().detach() / 2
                yield (
                    torch.stack(each).sum() / micro_batches,
                    {**health, "positive_cosine": cosine, **self._shares(boxes[view], piece["views"][view, 1].shape[-1])},
                )

    def draw(self, batch: Mapping[str, Any], step: int) -> dict[int, Tensor]:
        """view -> (N, K, 4) boxes of its objects, jittered: a function of (seed, step, image)."""
        device, k = next(self.parameters()).device, self.settings.objects
        chances = uniform(batch["index"], k * (1 + len(VIEWS) * JITTERS), self.seed, step).to(device, non_blocking=True)
        crops = {view: batch["crops"][view, 1].to(device, non_blocking=True) for view in VIEWS}
        boxes, count = (batch["fields"][name].to(device, non_blocking=True) for name in ("boxes", "count"))
        chosen = choose(boxes, count, [crops[view] for view in VIEWS], chances[:, :k])
        jitters = chances[:, k:].view(-1, len(VIEWS), k, JITTERS)
        return {
            view: in_view(jitter(chosen, jitters[:, i], self.settings.jitter, self.settings.jitter_ratio), crops[view])
            for i, view in enumerate(VIEWS)
        }

    def after_update(self, step: int, total_steps: int) -> None:
        move_target(self.target, self.online, momentum_at(step, total_steps, self.settings.momentum))

    def draw_first_batch(self, folder: Path, batch: Mapping[str, Any]) -> Path:
        boxes = {view: found.cpu() for view, found in self.draw(batch, 0).items()}
        return draw_views(folder / "views.png", outlined(batch["views"], boxes))

    def notes(self, images: int) -> list[str]:
        return [] if self.features.whole else ["without pyramid and head, objects of all sizes are cut out of C5"]

    def _embed(self, network: nn.ModuleDict, batch: Mapping[str, Any], boxes: Mapping[int, Tensor], view: int) -> Tensor:
        """(N * K, E) of a view's objects."""
        return network["project"](network["features"](self.images(batch["views"][view, 1]), boxes[view]))

    def _shares(self, boxes: Tensor, side: int) -> dict[str, Tensor]:
        """Which share of a view's objects each level has."""
        if not self.features.whole:
            return {}
        levels = self.features.level_of(boxes, side)
        return {f"objects/{name}": (levels == i).float().mean() for i, name in enumerate(LEVELS)}
