"""Batches by step number: the order is a function of (seed, epoch), so a run can start at any step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from mcl.data.loading.workers import batches_of
from mcl.errors import UserError
from mcl.randomness import STREAM_ORDER, generator_for


def steps_per_epoch(images: int, batch: int) -> int:
    """Full batches in a pass over ``images`` images; at least one (a small set then wraps around)."""
    return max(1, images // batch)


class StepSampler(Sampler[list[tuple[int, int]]]):
    """Yields for every step from ``start_step`` on a list of pairs (epoch, image index).

    Every process gets its slice of the step's global batch, so the order does not depend on their number.

    Args:
        images: in the data set.
        batch: images a step, of all processes together.
        rank, processes: whose slice; ``processes`` divides ``batch``.
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
    ) -> None:
        self.images, self.batch, self.seed = images, batch, seed
        self.share = batch // processes
        self.first = rank * self.share
        self.start_step, self.total_steps = start_step, total_steps

    def __len__(self) -> int:
        return self.total_steps - self.start_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        per_epoch, order, order_epoch = steps_per_epoch(self.images, self.batch), [], -1
        for step in range(self.start_step, self.total_steps):
            epoch, position = divmod(step, per_epoch)
            if epoch != order_epoch:
                generator = generator_for(STREAM_ORDER, self.seed, epoch)
                order, order_epoch = torch.randperm(self.images, generator=generator).tolist(), epoch
            first = position * self.batch + self.first
            yield [(epoch, order[i % self.images]) for i in range(first, first + self.share)]


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
) -> Iterator[Any]:
    """Batches of steps ``start_step .. total_steps - 1``; ``dataset[(epoch, index)]`` makes one sample.

    Args:
        dataset: map-style; its items depend on (epoch, index) alone.
        batch: images a step, >= 1, of all training processes together.
        rank, processes: of training; each gets its slice of every batch.
        workers: loader processes; each is held to one thread, for the training needs the cores.
    """
    sampler = StepSampler(len(dataset), batch, seed, start_step, total_steps, rank, processes)
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
