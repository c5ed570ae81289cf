"""SimSiam (arXiv 2011.10566)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lightly.models.modules.heads import SimSiamPredictionHead, SimSiamProjectionHead
from torch import Tensor, nn

from mcl.methods.health import health_of
from mcl.methods.losses import unit
from mcl.methods.online_target import mean_over_maps
from mcl.methods.two_views import VIEWS, TwoViews


class SimSiam(TwoViews):
    """Both views through one network; what a view is pulled to gets no gradient."""

    has_target = False

    def build_heads(self, channels: int) -> dict[str, nn.Module]:
        return {"project": SimSiamProjectionHead(channels, self.settings.hidden, self.settings.embedding)}

    def build_predictor(self) -> dict[str, nn.Module]:
        width = self.settings.embedding
        return {"predict": SimSiamPredictionHead(width, self.settings.bottleneck, width)}

    def pair_losses(self, images: Mapping[int, Tensor]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        with self.autocast():
            embeddings = {view: self._embed(images[view]) for view in VIEWS}
            predictions = {view: [self.predictor["predict"](z) for z in embeddings[view]] for view in VIEWS}
        rows = []
        for number in range(len(self.features.names)):
            p, z = ({view: unit(side[view][number]) for view in VIEWS} for side in (predictions, embeddings))
            cosine = sum((p[a] * z[b].detach()).sum(dim=1).mean() for a, b in (VIEWS, VIEWS[::-1])) / 2
            rows.append((-cosine, {"positive_cosine": cosine.detach()}))
        loss, numbers = mean_over_maps(self.features.names, rows)
        yield loss, {**health_of([unit(z.detach()) for view in VIEWS for z in embeddings[view]]), **numbers}

    def after_update(self, step: int, total_steps: int) -> None:
        """Nothing moves but what the optimizer moved."""

    def _embed(self, images: Tensor) -> list[Tensor]:
        return [self.online["project"](found.mean(dim=(2, 3))) for found in self.online["features"](images)]
