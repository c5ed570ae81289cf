"""Losses without a target network (SimSiam, VICReg): both views of a micro-batch at once, each the other's target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mcl.engine.processes.distributed import process_count
from mcl.methods.level_loss import LevelLoss, total_loss
from mcl.methods.losses import unit
from mcl.methods.mcl.assignment import gather_targets, target_scales
from mcl.methods.mcl.canvases import MclCanvases
from mcl.methods.mcl.micro_batches import MicroBatch, Targets, everyones, with_own
from mcl.methods.mcl.numbers import level_numbers
from mcl.methods.mcl.tiles import VIEWS, other_view
from mcl.methods.mcl.vicreg import vicreg

Embeddings = Mapping[int, Mapping[int, Tensor]]  # view -> scale -> (tiles, E)


def simsiam_losses(method: MclCanvases, pieces: Mapping[int, Any], step: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """(loss, numbers) of every micro-batch: predictions against the other view's embeddings, which get no gradient."""
    for number, piece in pieces.items():
        own = method.draw_micro_batch(piece, step, number)
        embeddings = embed(method, own)
        fixed = {view: {s: unit(e.detach()) for s, e in of_view.items()} for view, of_view in embeddings.items()}
        targets, health = everyones([own.label(fixed)])
        with method.autocast():
            predictions = {view: method.predict(of_view) for view, of_view in embeddings.items()}
        levels = method.compare(own, predictions, targets)
        yield total_loss(list(levels.values())) / len(pieces), {**health, **level_numbers(levels, method.level_names)}


def vicreg_losses(method: MclCanvases, pieces: Mapping[int, Any], step: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """(loss, numbers) of every micro-batch: the whole batch's loss, with the gradient of the micro-batch's own tiles.

    Variance and covariance are those of the whole batch. Of several micro-batches all embeddings are computed first,
    without gradient; a gradient through one micro-batch's tiles after the other then adds up to the batch's.
    """
    ahead = embed_ahead(method, pieces, step) if len(pieces) > 1 else None
    for number, piece in pieces.items():
        own = method.draw_micro_batch(piece, step, number)
        embeddings = embed(method, own)
        found, health = ahead or everyones([own.label(_detached(embeddings))])
        levels = vicreg_levels(method, embeddings, found, number)
        value = total_loss(list(levels.values()))
        # The mean over processes, and the sum over micro-batches, are the batch's value and the batch's gradient.
        loss = process_count() * (value - value.detach()) + value.detach() / len(pieces)
        yield loss, {**health, **level_numbers(levels, method.level_names)}


def vicreg_levels(
    method: MclCanvases, embeddings: Embeddings, everyone: Mapping[int, Targets], number: int
) -> dict[tuple[int, int], LevelLoss]:
    """(view, scale) -> loss of all micro-batches' tiles, with gradient for those of one.

    Args:
        embeddings: of the micro-batch, with gradient.
        everyone: embeddings of all, without.
        number: of the micro-batch.
    """
    joint = {
        view: {s: with_own(everyone[view].embeddings[s], e, number) for s, e in of_view.items()}
        for view, of_view in embeddings.items()
    }
    levels = {}
    for view in VIEWS:
        other, settings = other_view(view), method.settings
        for scale in method.scales:
            wanted = target_scales(settings.assignment, scale, method.scales)
            levels[view, scale] = vicreg(
                joint[view][scale], everyone[view].labels[scale],
                *gather_targets(joint[other], everyone[other].labels, wanted),
                settings.vicreg_weights, method.weights[scale],
            )  # fmt: skip
    return levels


def embed(method: MclCanvases, own: MicroBatch) -> dict[int, dict[int, Tensor]]:
    """view -> scale -> (tiles, E): the online network's embeddings of a micro-batch."""
    with method.autocast():
        return {view: method.read_online(own, view).embeddings for view in VIEWS}


@torch.no_grad()
def embed_ahead(
    method: MclCanvases, pieces: Mapping[int, Any], step: int
) -> tuple[dict[int, Targets], dict[str, Tensor]]:
    """Embeddings of all micro-batches of all processes, without gradient, and their health."""
    with statistics_kept(method.online):
        drawn = (method.draw_micro_batch(piece, step, number) for number, piece in pieces.items())
        return everyones([own.label(embed(method, own)) for own in drawn])


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """BatchNorms in train mode compute in here as ever, and their running statistics stay as they were."""
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
    buffers = [(tensor, tensor.clone()) for norm in norms for tensor in norm.buffers(recurse=False)]
    try:
        yield
    finally:
        for tensor, before in buffers:
            tensor.copy_(before)


def _detached(embeddings: Embeddings) -> dict[int, dict[int, Tensor]]:
    return {view: {s: e.detach() for s, e in of_view.items()} for view, of_view in embeddings.items()}
