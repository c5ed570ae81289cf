"""SwAV (arXiv 2006.09882)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from lightly.loss.swav_loss import sinkhorn
from lightly.models.modules.heads import SwaVProjectionHead
from torch import Tensor, nn

from mcl.config.pretrain import ViewSettings
from mcl.data.loading.views import ViewSpec, Wanted
from mcl.engine.processes.distributed import all_gather_rows, process_count, rank
from mcl.methods.base import split_batch
from mcl.methods.health import health_of
from mcl.methods.losses import unit
from mcl.methods.online_target import OnlineAndTarget, mean_over_maps
from mcl.methods.queue import KeyQueue
from mcl.methods.swav.settings import SwavSettings

LARGE = (1, 2)  # views whose codes are predicted
PAPER_SIZES = (96, 224)  # of small and large crops

Embeddings = list[dict[int, Tensor]]  # of each map: view -> (N, E), L2-normalised


class Swav(OnlineAndTarget):
    """Prototypes are one set for all maps; codes are computed of the joint batch, for each map and large crop."""

    has_target = False
    advice = dict.fromkeys(
        ("collapse_spread", "collapse_rank"),
        "try a lower --method.epsilon, a lower --optim.lr, or fewer --method.prototypes than images of a batch and its queue",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        size, width = self.settings.queue, self.settings.embedding
        maps = self.features.names if size else ()
        self.queues = nn.ModuleList(nn.ModuleList(KeyQueue(size, width) for _ in LARGE) for _ in maps)
        self.register_buffer("queued", torch.zeros((), dtype=torch.long))  # images that the queues ever took in
        self.register_buffer("progress", torch.zeros(()))  # share of the steps that are done
        self._full = False  # as ``queued`` says: a step asks no tensor for its value
        self.register_load_state_dict_post_hook(lambda *_: self._look_at_queue())
        self._normalise_prototypes()
        self._fresh: list[Embeddings] = []  # large crops of this step's micro-batches

    @classmethod
    def wanted(cls, settings: SwavSettings, views: ViewSettings, image_size: int) -> Wanted:
        small = settings.small_size or max(32, 32 * round(image_size * PAPER_SIZES[0] / PAPER_SIZES[1] / 32))
        large = [ViewSpec((view, 1), image_size, style, settings.large_crops) for style, view in enumerate(LARGE)]
        first = LARGE[-1] + 1
        rest = [ViewSpec((first + i, 1), small, i % 2, settings.small_crops) for i in range(settings.small)]
        return Wanted((*large, *rest))

    def build_heads(self, channels: int) -> dict[str, nn.Module]:
        return {"project": SwaVProjectionHead(channels, self.settings.hidden, self.settings.embedding)}

    def build_predictor(self) -> dict[str, nn.Module]:
        return {"prototypes": nn.Linear(self.settings.embedding, self.settings.prototypes, bias=False)}

    def losses(
        self, batch: Mapping[str, Any], step: int, micro_batches: int = 1
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        pieces = split_batch(batch, micro_batches)
        # Codes are an assignment of the whole batch. Of several micro-batches the large crops are therefore encoded
        # twice: without gradients for the codes, then with them, piece by piece, for the predictions.
        ready = self._encode(pieces[0]["views"]) if micro_batches == 1 else None
        if ready:
            self._fresh = [[{view: found[view].detach() for view in LARGE} for found in ready]]
        else:
            with torch.no_grad():
                self._fresh = [self._encode({(v, 1): piece["views"][v, 1] for v in LARGE}) for piece in pieces]
        assigned = self._assign(self._fresh)
        for number, piece in enumerate(pieces):
            embeddings = ready or self._encode(piece["views"])
            rows = [
                self._swapped(found, {view: q[view][number] for view in LARGE})
                for found, q in zip(embeddings, assigned, strict=True)
            ]
            loss, numbers = mean_over_maps(self.features.names, rows)
            health = health_of([found[view].detach() for found in embeddings for view in LARGE])
            chance = loss.new_tensor(1 / self.settings.prototypes)
            yield loss / micro_batches, {**health, **numbers, "chance": chance}

    def after_update(self, step: int, total_steps: int) -> None:
        self._normalise_prototypes()
        self.progress.fill_((step + 1) / total_steps)
        if self.queues and step >= self.settings.queue_after * total_steps:
            for number, of_map in enumerate(self.queues):
                for view, queue in zip(LARGE, of_map, strict=True):
                    queue.put(torch.cat([fresh[number][view] for fresh in self._fresh]))
            self.queued += sum(len(fresh[0][LARGE[0]]) for fresh in self._fresh) * process_count()
            if not self._full:
                self._look_at_queue()
        self._fresh = []

    def gathered_numbers(self, images: int) -> int:
        return (2 if self.queues else 1) * len(LARGE) * images * self.settings.embedding * len(self.features.names)

    def _encode(self, views: Mapping[tuple[int, int], Tensor]) -> Embeddings:
        """Crops of one size go through the network together, all embeddings through the projector together."""
        sizes: dict[int, list[int]] = {}
        for (view, _), pixels in views.items():
            sizes.setdefault(pixels.shape[-1], []).append(view)
        pooled: list[list[Tensor]] = []  # of each size, of each map
        with self.autocast():
            for group in sizes.values():
                images = self.images(torch.cat([views[view, 1] for view in group]))
                pooled.append([found.mean(dim=(2, 3)) for found in self.features(images)])
            together = [torch.cat(of_map) for of_map in zip(*pooled, strict=True)]
            embeddings = [unit(self.online["project"](features)) for features in together]
        order = [view for group in sizes.values() for view in group]
        return [dict(zip(order, found.chunk(len(order)), strict=True)) for found in embeddings]

    def _assign(self, fresh: Sequence[Embeddings]) -> list[dict[int, list[Tensor]]]:
        """Of each map: view -> the codes of this process's micro-batches, of an assignment of everyone's and the queue's."""
        found = []
        for number in range(len(self.features.names)):
            of_views = {}
            for place, view in enumerate(LARGE):
                own = torch.cat([piece[number][view] for piece in fresh])
                everyone = all_gather_rows(own).flatten(0, 1)
                if self._full:  # before, part of the queue is no image's
                    everyone = torch.cat([everyone, self.queues[number][place].keys.to(own.dtype)])
                scores = everyone @ self._prototypes().detach().to(own.dtype).T
                q = sinkhorn(scores, self.settings.iterations, self.settings.epsilon)
                of_views[view] = list(q[rank() * len(own) :][: len(own)].chunk(len(fresh)))
            found.append(of_views)
        return found

    def _swapped(self, embeddings: Mapping[int, Tensor], q: Mapping[int, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Every crop predicts the codes of the large crops but its own (equations 2 and 6), as a mean over the pairs."""
        prototypes = self._prototypes()
        scores = {view: z @ prototypes.to(z.dtype).T / self.settings.temperature for view, z in embeddings.items()}
        pairs = [(view, large) for large in LARGE for view in scores if view != large]
        losses = [F.cross_entropy(scores[view], q[large]) for view, large in pairs]
        right = [(scores[a].argmax(1) == q[b].argmax(1)).to(losses[0].dtype).mean() for a, b in (LARGE, LARGE[::-1])]
        return torch.stack(losses).mean(), {"accuracy": torch.stack(right).mean()}

    def _prototypes(self) -> Tensor:
        """(K, E), L2-normalised; at first without gradient."""
        weight = self.predictor["prototypes"].weight
        return torch.where(self.progress < self.settings.freeze, weight.detach(), weight)

    def _look_at_queue(self) -> None:
        self._full = bool(self.queues) and int(self.queued) >= self.settings.queue

    @torch.no_grad()
    def _normalise_prototypes(self) -> None:
        weight = self.predictor["prototypes"].weight
        weight.copy_(F.normalize(weight, dim=1))
