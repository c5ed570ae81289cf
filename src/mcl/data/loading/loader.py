"""Batches by step number: the order is a function of (seed, epoch), so a run can start at any step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from mcl.data.loading.order import Key, Order, Shuffled
from mcl.data.loading.workers import batches_of
from mcl.errors import UserError


def steps_per_epoch(images: int, batch: int) -> int:
    """Full batches in a pass over ``images`` images; at least one (a small set then wraps around)."""
    return max(1, images // batch)


class StepSampler(Sampler[list[Key]]):
    """Yields for every step from ``start_step`` on a list of keys: (epoch, image index), see ``order.Key``.

    Every process gets its slice of the step's global batch, so the order does not depend on their number.

    Args:
        images: in the data set.
        batch: images a step, of all processes together.
        rank, processes: whose slice; ``processes`` divides ``batch``.
        order: of the samples; default: every image once an epoch.
    """

    def __init__(
        self,
        images: int,
        batch: int,
        seed: int,
        start_step: int,
        total_steps: int,
        rank: int = 0,
        processes: int = 1,
        order: Order | None = None,
    ) -> None:
        self.order, self.batch = order or Shuffled(images, seed), batch
        self.share = batch // processes
        self.first = rank * self.share
        self.start_step, self.total_steps = start_step, total_steps

    def __len__(self) -> int:
        return self.total_steps - self.start_step

    def __iter__(self) -> Iterator[list[Key]]:
        per_epoch, keys, keys_epoch = steps_per_epoch(self.order.samples, self.batch), [], -1
        for step in range(self.start_step, self.total_steps):
            epoch, position = divmod(step, per_epoch)
            if epoch != keys_epoch:
                keys, keys_epoch = self.order.keys(epoch), epoch
            first = position * self.batch + self.first
            yield [keys[i % len(keys)] for i in range(first, first + self.share)]


def step_batches(
    dataset: Dataset,
    batch: int,
    seed: int,
    start_step: int,
    total_steps: int,
    workers: int,
    collate: Callable[[Sequence[Any]], Any] | None = None,
    pin_memory: bool = False,
    rank: int = 0,
    processes: int = 1,
    order: Order | None = None,
) -> Iterator[Any]:
    """Batches of steps ``start_step .. total_steps - 1``; ``dataset[(epoch, index)]`` makes one sample.

    Args:
        dataset: map-style; its items depend on their key alone.
        batch: images a step, >= 1, of all training processes together.
        rank, processes: of training; each gets its slice of every batch.
        workers: loader processes; each is held to one thread, for the training needs the cores.
        order: of the samples; default: every image once an epoch.
    """
    sampler = StepSampler(len(dataset), batch, seed, start_step, total_steps, rank, processes, order)
    loader = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
        # The default would draw a base seed from the global generator, which the training also uses.
        generator=torch.Generator().manual_seed(0),
    )
    return plain_errors(loader)


def plain_errors(loader: DataLoader) -> Iterator[Any]:
    """Batches of a DataLoader, with a worker's ``UserError`` as the one line that it was.

    (A DataLoader wraps what a worker raises into the text of a traceback.)
    """
    try:
        yield from batches_of(loader)
    except UserError as error:
        raise type(error)(str(error).strip().rpartition(f"{type(error).__name__}: ")[2]) from None
