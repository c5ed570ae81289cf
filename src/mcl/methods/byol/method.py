"""BYOL (arXiv 2006.07733)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead
from torch import Tensor, nn

from mcl.methods.health import health_of
from mcl.methods.losses import regression, unit
from mcl.methods.online_target import mean_over_maps
from mcl.methods.two_views import VIEWS, TwoViews
from mcl.nn.momentum import momentum_at, move_target


class Byol(TwoViews):
    """Both views through both networks; one predictor for all maps."""

    passes = len(VIEWS)  # with the targets known, one view's loss asks for nothing of the other's

    def build_heads(self, channels: int) -> dict[str, nn.Module]:
        return {"project": BYOLProjectionHead(channels, self.settings.hidden, self.settings.embedding)}

    def build_predictor(self) -> dict[str, nn.Module]:
        width = self.settings.embedding
        return {"predict": BYOLPredictionHead(width, self.settings.hidden, width)}

    def pair_losses(self, images: Mapping[int, Tensor]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        with torch.no_grad(), self.autocast():
            targets = {view: self._embed(self.target, images[view]) for view in VIEWS}
        health = health_of([unit(target) for view in VIEWS for target in targets[view]])
        for view, other in (VIEWS, VIEWS[::-1]):
            with self.autocast():
                predictions = [self.predictor["predict"](z) for z in self._embed(self.online, images[view])]
            rows = [(regression(p, t), {}) for p, t in zip(predictions, targets[other], strict=True)]
            loss, numbers = mean_over_maps(self.features.names, rows)
            cosines = {name.replace("loss", "positive_cosine"): 1 - value / 2 for name, value in numbers.items()}
            # A map's loss is the sum over views; twice one view's, so that the mean over views is the sum.
            yield loss, {**health, **{name: len(VIEWS) * value for name, value in numbers.items()}, **cosines}

    def after_update(self, step: int, total_steps: int) -> None:
        move_target(self.target, self.online, momentum_at(step, total_steps, self.settings.momentum))

    @staticmethod
    def _embed(network: nn.ModuleDict, images: Tensor) -> list[Tensor]:
        return [network["project"](found.mean(dim=(2, 3))) for found in network["features"](images)]
