"""MoCo v3 (arXiv 2104.02057)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from lightly.models.modules.heads import MoCoProjectionHead
from torch import Tensor, nn

from mcl.config.pretrain import ViewSettings
from mcl.data.loading.views import Wanted
from mcl.engine.processes.distributed import all_gather_rows, rank
from mcl.methods.base import split_batch
from mcl.methods.health import health_of
from mcl.methods.image_vectors import ImageVectors
from mcl.methods.losses import unit
from mcl.methods.mocov3.settings import MoCoV3Settings
from mcl.methods.online_target import OnlineAndTarget, mean_over_maps
from mcl.methods.two_views import VIEWS, full_size_views
from mcl.nn.momentum import momentum_at, move_target
from mcl.nn.trunk import Trunk
from mcl.nn.vit import PlainVit

Keys = dict[int, list[Tensor]]  # view -> of each map (images, E), L2-normalised


class MoCoV3(OnlineAndTarget):
    """Keys are the whole batch's: of all micro-batches and processes."""

    passes = len(VIEWS)  # with the keys known, one view's loss asks for nothing of the other's
    advice = dict.fromkeys(
        ("collapse_spread", "collapse_rank"),
        "try a lower --optim.lr, more --schedule.warmup_steps, or --model.patch_projection frozen",
    )

    @classmethod
    def wanted(cls, settings: MoCoV3Settings, views: ViewSettings, image_size: int) -> Wanted:
        return full_size_views(image_size)

    def build_features(self, trunk: Trunk) -> ImageVectors:
        self.plain = isinstance(trunk.backbone.body, PlainVit)  # the authors' heads have a layer and a norm more then
        return ImageVectors(trunk, self.settings.parts)

    def build_heads(self, channels: int) -> dict[str, nn.Module]:
        layers = self.settings.layers or (3 if self.plain else 2)
        return {"project": mlp(channels, self.settings.hidden, self.settings.embedding, layers, last_norm=True)}

    def build_predictor(self) -> dict[str, nn.Module]:
        width = self.settings.embedding
        return {"predict": mlp(width, self.settings.hidden, width, layers=2, last_norm=self.plain)}

    def losses(
        self, batch: Mapping[str, Any], step: int, micro_batches: int = 1
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        pieces = split_batch(batch, micro_batches)
        keys = self._keys(pieces)
        health = health_of([found for view in VIEWS for found in keys[view]])
        size = len(batch["index"]) // micro_batches
        for number, piece in enumerate(pieces):
            first = rank() * len(batch["index"]) + number * size
            for view, other in (VIEWS, VIEWS[::-1]):
                images = self.images(piece["views"][view, 1])
                with self.autocast():
                    queries = [self.predictor["predict"](z) for z in self._embed(self.online, images)]
                rows = [
                    batch_contrast(unit(q), k, first, self.settings.temperature)
                    for q, k in zip(queries, keys[other], strict=True)
                ]
                loss, numbers = mean_over_maps(self.features.names, rows)
                # A map's loss is the sum over views; twice one view's, so that the mean over views is the sum.
                told = {name: len(VIEWS) * value if name.startswith("loss") else value for name, value in numbers.items()}
                yield loss / micro_batches, {**health, **told, "chance": loss.new_tensor(1 / len(keys[view][0]))}

    def after_update(self, step: int, total_steps: int) -> None:
        move_target(self.target, self.online, momentum_at(step, total_steps, self.settings.momentum))

    def gathered_numbers(self, images: int) -> int:
        return len(VIEWS) * images * self.settings.embedding * len(self.features.names)

    @torch.no_grad()
    def _keys(self, pieces: list[Mapping[str, Any]]) -> Keys:
        """Keys of all micro-batches of all processes, in the order of images."""
        found: Keys = {}
        for view in VIEWS:
            rows = []
            for piece in pieces:
                with self.autocast():
                    rows.append([unit(z) for z in self._embed(self.target, self.images(piece["views"][view, 1]))])
            found[view] = [all_gather_rows(torch.cat(of_map)).flatten(0, 1) for of_map in zip(*rows, strict=True)]
        return found

    @staticmethod
    def _embed(network: nn.ModuleDict, images: Tensor) -> list[Tensor]:
        return [network["project"](found) for found in network["features"](images)]


def mlp(channels: int, hidden: int, embedding: int, layers: int, last_norm: bool) -> nn.Module:
    """Linear layers without bias, BatchNorm after each, ReLU between them; (n, C) -> (n, E).

    lightly's head, but for the last norm: the authors' has no scale and shift, and their predictor on ResNets no norm at
    its end, while lightly's always has one with both.
    """
    head = MoCoProjectionHead(channels, hidden, embedding, num_layers=layers, batch_norm=True)
    head.layers[-1] = nn.BatchNorm1d(embedding, affine=False) if last_norm else nn.Identity()
    return head


def batch_contrast(queries: Tensor, keys: Tensor, first: int, temperature: float) -> tuple[Tensor, dict[str, Tensor]]:
    """2T * CE(q . keys^T / T, own key) as a mean over queries (algorithm 1, ``ctr``), and numbers to log.

    Args:
        queries: (n, E), L2-normalised.
        keys: (M, E), L2-normalised, without gradient.
        first: place of the first query's key; the others follow.
    """
    cosines = queries @ keys.to(queries.dtype).T
    labels = first + torch.arange(len(queries), device=queries.device)
    loss = 2 * temperature * F.cross_entropy(cosines / temperature, labels)
    with torch.no_grad():
        numbers = {
            "positive_cosine": cosines.gather(1, labels[:, None]).mean(),
            "accuracy": (cosines.argmax(dim=1) == labels).to(loss.dtype).mean(),
        }
    return loss, numbers
