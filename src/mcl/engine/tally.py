"""What steps report between two lines of the log: collected, averaged over them and over the processes."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from mcl.engine.machine.memory import gpu_share
from mcl.engine.processes.distributed import all_reduce_mean

WATCHED = ("loss", "gradient_norm")  # of these, every step's value is handed on


class Tally:
    """Filled with the numbers of each step, emptied for each line.

    Args:
        images_per_step: for images/s.
        started: when the first step began to wait for its data (``time.perf_counter``).
    """

    def __init__(self, images_per_step: int, started: float) -> None:
        self.images_per_step = images_per_step
        self._pending: list[dict[str, Tensor | float]] = []
        self._since = (started, 0.0)  # (time, data wait until then) of the last line

    def add(self, values: dict[str, Tensor | float]) -> None:
        """Numbers of one step; tensors stay where they are until the next line."""
        self._pending.append(values)

    def pause(self, seconds: float) -> None:
        """So many seconds went into something else than steps."""
        self._since = (self._since[0] + seconds, self._since[1])

    def take(self, waited: float) -> tuple[dict[str, float], dict[str, list[float]]]:
        """Means over the steps since the last line, and what is watched of each step; fetched at once.

        Args:
            waited: seconds for which all steps until now have waited for data.
        """
        now, steps = time.perf_counter(), len(self._pending)
        rows = [[float(v) if not torch.is_tensor(v) else v for v in row.values()] for row in self._pending]
        names = list(self._pending[-1])
        columns = [
            torch.stack([torch.as_tensor(row[i], dtype=torch.float64) for row in rows])
            for i in range(len(names))
        ]
        values = {name: float(column.mean()) for name, column in zip(names, columns, strict=True)}
        each = {n: c.tolist() for n, c in zip(names, columns, strict=True) if n in WATCHED}
        started, waited_before = self._since
        values["lr"] = float(self._pending[-1]["lr"])
        values["images_per_second"] = steps * self.images_per_step / (now - started)
        values["data_wait"] = (waited - waited_before) / (now - started)
        if (share := gpu_share()) is not None:
            values["gpu_memory"] = share
        joint = all_reduce_mean(torch.tensor(list(values.values()), dtype=torch.float64))
        self._pending, self._since = [], (now, waited)
        return dict(zip(values, joint.tolist(), strict=True)), each
