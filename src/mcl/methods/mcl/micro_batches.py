"""A global batch in micro-batches: a process encodes its own, one after the other, and all share targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mcl.engine.processes.distributed import all_gather_rows, process_count
from mcl.methods.health import health_of
from mcl.methods.mcl.regions import Regions
from mcl.methods.montage import Shuffle


@dataclass(frozen=True)
class MicroBatch:
    """A piece of the global batch that has its own montages: what one process encodes at a time.

    Attributes:
        canvases: view -> what the networks see: (B, 3, S, S) in the order of ``assemble``, or tiles as of ``stack``.
        shuffles: view -> image of each tile, counted within the micro-batch.
        number: of the micro-batch, from 0 over all processes; all have the same number of images.
        boxes: view -> scale -> (canvases, tiles, 4) in pixels, where tiles do not lie on a grid.
        jittered: the same, boxes that are moved and stretched (localise).
        crops: view -> scale -> (images, 5), where each image's tile was cut (dense_weight).
        regions: of the view in which they are learned in this step (regions_weight).
    """

    canvases: Mapping[int, Tensor | Mapping[int, Tensor]]
    shuffles: Mapping[int, Shuffle]
    number: int
    boxes: Mapping[int, Mapping[int, Tensor]] = field(default_factory=dict)
    jittered: Mapping[int, Mapping[int, Tensor]] = field(default_factory=dict)
    crops: Mapping[int, Mapping[int, Tensor]] = field(default_factory=dict)
    regions: Mapping[int, Regions] = field(default_factory=dict)

    def labels(self, view: int, scale: int) -> Tensor:
        """(tiles,) image of each tile, counted over all micro-batches."""
        labels = self.shuffles[view].labels
        return labels[scale] + self.number * len(labels[1])

    def label(self, embeddings: Mapping[int, Mapping[int, Tensor]]) -> dict[int, Targets]:
        """view -> scale -> (tiles, E) embeddings of the micro-batch, with the image of each."""
        return {
            view: Targets(of_view, {s: self.labels(view, s).to(e.device, non_blocking=True) for s, e in of_view.items()})
            for view, of_view in embeddings.items()
        }


@dataclass(frozen=True)
class Targets:
    """Target embeddings of one view.

    Attributes:
        embeddings: scale -> (tiles, E), L2-normalised, without gradient.
        labels: scale -> (tiles,) image of each, counted over all micro-batches.
    """

    embeddings: Mapping[int, Tensor]
    labels: Mapping[int, Tensor]


def join_targets(pieces: Sequence[Mapping[int, Targets]]) -> dict[int, Targets]:
    """view -> targets of all micro-batches of this process, in their order."""
    if len(pieces) == 1:
        return dict(pieces[0])
    joined = {}
    for view, first in pieces[0].items():
        of_view = [targets[view] for targets in pieces]
        joined[view] = Targets(
            {scale: torch.cat([t.embeddings[scale] for t in of_view]) for scale in first.embeddings},
            {scale: torch.cat([t.labels[scale] for t in of_view]) for scale in first.labels},
        )
    return joined


def gather_over_processes(targets: Mapping[int, Targets]) -> dict[int, Targets]:
    """view -> targets of all processes, in the order of their ranks, without gradient.

    One exchange for all views and scales; labels ride along as one more column (fp32 holds them up to 2^24).
    """
    if process_count() == 1:
        return dict(targets)
    keys = [(view, scale) for view, own in targets.items() for scale in own.embeddings]
    tables = []
    for view, scale in keys:
        embeddings, labels = targets[view].embeddings[scale], targets[view].labels[scale]
        tables.append(torch.cat([embeddings, labels[:, None].to(embeddings.dtype)], dim=1))
    everyone = all_gather_rows(torch.cat(tables))  # (processes, tiles of all keys, E + 1)
    tables_of_all = everyone.split([len(table) for table in tables], dim=1)
    joined = {key: piece.flatten(0, 1) for key, piece in zip(keys, tables_of_all, strict=True)}
    return {
        view: Targets(
            {scale: joined[view, scale][:, :-1] for scale in own.embeddings},
            {scale: joined[view, scale][:, -1].long() for scale in own.labels},
        )
        for view, own in targets.items()
    }


def everyones(own: Sequence[Mapping[int, Targets]]) -> tuple[dict[int, Targets], dict[str, Tensor]]:
    """Everyone's targets, with which this process's micro-batches are compared; and how far they are from a collapse."""
    targets = gather_over_processes(join_targets(own))
    return targets, health_of([of_view.embeddings[1] for of_view in targets.values()])


def relabelled(targets: Mapping[int, Targets], classes: Tensor | None) -> Mapping[int, Targets]:
    """Targets labelled by class instead of image; ``classes``: (images of all processes,), none: as they are."""
    if classes is None:
        return targets
    return {
        view: Targets(of_view.embeddings, {scale: classes[labels] for scale, labels in of_view.labels.items()})
        for view, of_view in targets.items()
    }


def with_own(everyones: Tensor, own: Tensor, number: int) -> Tensor:
    """Rows of all micro-batches, (micro-batches * n, E), with those of one replaced by its own (n, E) with gradient."""
    first = number * len(own)
    return torch.cat([everyones[:first].to(own.dtype), own, everyones[first + len(own) :].to(own.dtype)])
