"""MoCo v2 (arXiv 2003.04297)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from lightly.models.modules.heads import MoCoProjectionHead
from torch import Tensor, nn

from mcl.methods.health import health_of
from mcl.methods.losses import queue_contrast, unit
from mcl.methods.online_target import mean_over_maps
from mcl.methods.queue import KeyQueue
from mcl.methods.two_views import QueuedTwoViews


class MoCoV2(QueuedTwoViews):
    """One queue for each map. Joint BatchNorm statistics of all processes stand for the paper's shuffling of images."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.queues = nn.ModuleList(
            KeyQueue(self.settings.queue, self.settings.embedding) for _ in self.features.names
        )

    def build_heads(self, channels: int) -> dict[str, nn.Module]:
        hidden = self.settings.hidden or channels
        return {"project": MoCoProjectionHead(channels, hidden, self.settings.embedding)}

    def pair_losses(self, images: Mapping[int, Tensor]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        with self.autocast():
            queries = [unit(embedding) for embedding in embeddings(self.online, images[1])]
            with torch.no_grad():
                keys = [unit(embedding) for embedding in embeddings(self.target, images[2])]
        self.fresh.append(keys)
        rows = [
            queue_contrast(query, key, queue.keys, self.settings.temperature)
            for query, key, queue in zip(queries, keys, self.queues, strict=True)
        ]
        loss, numbers = mean_over_maps(self.features.names, rows)
        yield loss, {**health_of(keys), **numbers, "chance": loss.new_tensor(1 / (1 + self.settings.queue))}

    def enter(self, fresh: Sequence[list[Tensor]]) -> None:
        for queue, keys in zip(self.queues, zip(*fresh, strict=True), strict=True):
            queue.put(torch.cat(keys))

    def gathered_numbers(self, images: int) -> int:
        return images * self.settings.embedding * len(self.queues)


def embeddings(network: nn.ModuleDict, images: Tensor) -> list[Tensor]:
    """(N, E) of every map: its mean over the cells, projected."""
    return [network["project"](found.mean(dim=(2, 3))) for found in network["features"](images)]
