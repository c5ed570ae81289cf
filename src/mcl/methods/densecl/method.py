"""DenseCL (arXiv 2011.09157)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightly.models.modules.heads import DenseCLProjectionHead
from lightly.models.utils import select_most_similar
from torch import Tensor, nn

from mcl.methods.health import health_of
from mcl.methods.losses import queue_contrast, unit
from mcl.methods.online_target import mean_over_maps
from mcl.methods.queue import KeyQueue
from mcl.methods.two_views import QueuedTwoViews


@dataclass(frozen=True)
class Encoded:
    """One map of a batch.

    Attributes:
        cells: (N, w * w, C) features.
        image: (N, E) embedding of the mean over the cells, L2-normalised.
        dense: (N, w * w, E) embeddings of the cells, L2-normalised.
        pooled: (N, E) mean over the cells of what ``dense`` was normalised from, L2-normalised.
    """

    cells: Tensor
    image: Tensor
    dense: Tensor
    pooled: Tensor


class DenseCl(QueuedTwoViews):
    """Two queues for each map: keys of images, and pooled keys of their cells (section 3.2)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        size = (self.settings.queue, self.settings.embedding)
        self.image_queues = nn.ModuleList(KeyQueue(*size) for _ in self.features.names)
        self.cell_queues = nn.ModuleList(KeyQueue(*size) for _ in self.features.names)

    def build_heads(self, channels: int) -> dict[str, nn.Module]:
        hidden, width = self.settings.hidden or channels, self.settings.embedding
        return {
            "project": DenseCLProjectionHead(channels, hidden, width),
            "project_cells": DenseCLProjectionHead(channels, hidden, width),
        }

    def pair_losses(self, images: Mapping[int, Tensor]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        with self.autocast():
            queries = _encode(self.online, images[1])
            with torch.no_grad():
                keys = _encode(self.target, images[2])
        self.fresh.append(keys)
        queues = zip(self.image_queues, self.cell_queues, strict=True)
        rows = [self._map_loss(*one) for one in zip(queries, keys, queues, strict=True)]
        loss, numbers = mean_over_maps(self.features.names, rows)
        chance = loss.new_tensor(1 / (1 + self.settings.queue))
        yield loss, {**health_of([key.image for key in keys]), **numbers, "chance": chance}

    def _map_loss(
        self, query: Encoded, key: Encoded, queues: tuple[KeyQueue, KeyQueue]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(1 - lambda) of the images' loss and lambda of the cells' (equation 3)."""
        temperature, share = self.settings.temperature, self.settings.dense_weight
        by_image, numbers = queue_contrast(query.image, key.image, queues[0].keys, temperature)
        # Which cell shows the same is asked of the features, not of the embeddings (equation 4).
        positives = select_most_similar(query.cells.detach(), key.cells, key.dense)
        by_cell, told = queue_contrast(
            query.dense.flatten(0, 1), positives.flatten(0, 1), queues[1].keys, temperature
        )
        dense = {"dense_loss": by_cell.detach(), "dense_accuracy": told["accuracy"]}
        return (1 - share) * by_image + share * by_cell, {**numbers, **dense}

    def enter(self, fresh: Sequence[list[Encoded]]) -> None:
        for number, keys in enumerate(zip(*fresh, strict=True)):
            self.image_queues[number].put(torch.cat([key.image for key in keys]))
            self.cell_queues[number].put(torch.cat([key.pooled for key in keys]))

    def gathered_numbers(self, images: int) -> int:
        return 2 * images * self.settings.embedding * len(self.image_queues)


def _encode(network: nn.ModuleDict, images: Tensor) -> list[Encoded]:
    found = []
    for maps in network["features"](images):
        cells = maps.flatten(start_dim=2).transpose(1, 2)  # (N, C, w, w) -> (N, w * w, C)
        dense = network["project_cells"](cells)
        image = network["project"](maps.mean(dim=(2, 3)))
        found.append(Encoded(cells, unit(image), unit(dense), unit(dense.mean(dim=1))))
    return found
