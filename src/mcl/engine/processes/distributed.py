"""What the processes of one run tell each other. Alone, every function here returns at once.

Tensors on the CPU travel over gloo, tensors on a GPU over nccl (``mcl.engine.processes.job`` starts both).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mcl.errors import UserError

T = TypeVar("T")


def process_count() -> int:
    """Processes of this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if process_count() > 1 else 0


def is_main() -> bool:
    """Whether this process (rank 0) writes files and prints."""
    return rank() == 0


def per_process(batch: int, setting: str = "batch") -> int:
    """Images a process and step, for a global batch.

    Raises:
        UserError: the batch cannot be divided evenly.
    """
    count = process_count()
    if batch % count:
        raise UserError(
            f"--{setting} {batch}: is the batch of all processes together and cannot be divided by {count} of them; "
            f"give {max(1, batch // count) * count} or {(batch // count + 1) * count}, or start another number of processes"
        )
    return batch // count


@torch.no_grad()
def all_gather_rows(rows: Tensor) -> Tensor:
    """(n, ...) of every process -> (processes, n, ...) on every process, without gradient; n is the same on all."""
    if process_count() == 1:
        return rows[None]
    everyone = [torch.empty_like(rows) for _ in range(process_count())]
    dist.all_gather(everyone, rows.contiguous())
    return torch.stack(everyone)


@torch.no_grad()
def all_reduce_mean(tensor: Tensor) -> Tensor:
    """The mean of every process's tensor, the same on all of them."""
    if process_count() == 1:
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total / process_count()


def barrier() -> None:
    """Returns when every process has come here."""
    if process_count() > 1:
        dist.all_reduce(torch.zeros(1))


def broadcast_object(make: Callable[[], T]) -> T:
    """What ``make`` returns on rank 0, on every process (plain types; the others do not call it)."""
    if process_count() == 1:
        return make()
    box = [make() if is_main() else None]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def main_first(make: Callable[[], T]) -> T:
    """What ``make`` returns, called on rank 0 before the others: they find what it downloaded or wrote."""
    made = make() if is_main() else None
    barrier()
    return made if is_main() else make()


def gather_objects(value: T) -> list[T] | None:
    """Every process's value on rank 0, in order of rank; none elsewhere."""
    if process_count() == 1:
        return [value]
    values: list[Any] | None = [None] * process_count() if is_main() else None
    dist.gather_object(value, values, dst=0)
    return values


def all_gather_objects(value: T) -> list[T]:
    """Every process's value on every process, in order of rank."""
    if process_count() == 1:
        return [value]
    values: list[Any] = [None] * process_count()
    dist.all_gather_object(values, value)
    return values


@torch.no_grad()
def broadcast_module(module: nn.Module) -> None:
    """Give parameters and buffers the values of rank 0, so that all start alike whatever their machines computed."""
    if process_count() > 1:
        for tensor in module.state_dict().values():
            plain = tensor.contiguous()
            dist.broadcast(plain, src=0)
            tensor.copy_(plain)


class Agreement:
    """Agree on a small number in every step: the largest that any process gave when the step began.

    The exchange runs while the step computes (8 bytes over gloo), so it costs a step no time of its own.
    """

    def __init__(self) -> None:
        self._number = torch.zeros(1, dtype=torch.int64)
        self._work: dist.Work | None = None

    def give(self, number: int) -> None:
        """Start the exchange; every process must."""
        self._number.fill_(number)
        if process_count() > 1:
            self._work = dist.all_reduce(self._number, dist.ReduceOp.MAX, async_op=True)

    def largest(self, newest: int) -> int:
        """The largest number given; waits for the exchange to end. Alone: ``newest``, nobody has to be asked."""
        if self._work is None:
            return newest
        self._work.wait()
        self._work = None
        return int(self._number)


def require_same(value: Sequence[Any] | int | str, what: str) -> None:
    """Check that all processes have the same plain value.

    Raises:
        UserError: naming the first process that differs from rank 0.
    """
    values = all_gather_objects(value)
    for number, other in enumerate(values):
        if other != values[0]:
            raise UserError(
                f"the processes do not agree on {what}: rank 0 has {values[0]}, rank {number} has {other}; "
                "do they see the same files?"
            )
