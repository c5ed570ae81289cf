"""How long steps wait for other processes, read from a profile by torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from torch.autograd import DeviceType

Moments = list[tuple[float, int, int]]  # (time, change of exchanges under way, change of operations under way)


def exchange_shares(events: Iterable[Any], label: str) -> list[tuple[float, int]]:
    """For every step of a profile (share of its time in exchanges, number of exchanges that begin in it).

    A moment counts as in an exchange when one is under way and nothing is computed meanwhile: what DDP sends while
    backward goes on costs nothing.

    Args:
        events: of ``torch.profiler.profile``. On a GPU kernels count, those of nccl as exchanges; else what gloo does
            and torch's operators.
        label: a ``record_function`` around each step, at whose end nothing is under way any more.
    """
    events = list(events)
    on_gpu = any(event.device_type == DeviceType.CUDA for event in events)
    spans = sorted((e.time_range.start, e.time_range.end) for e in events if e.name == label and not _is_gpu(e))
    exchanges = [e.time_range for e in events if _is_exchange(e, on_gpu)]
    work = [e.time_range for e in events if _is_work(e, on_gpu)]
    shares = []
    for start, end in spans:
        moments = _moments(exchanges, start, end, 0) + _moments(work, start, end, 1)
        calls = sum(start <= span.start < end for span in exchanges)
        shares.append((_alone(moments) / (end - start), calls))
    return shares


def _is_gpu(event: Any) -> bool:
    return event.device_type == DeviceType.CUDA


def _is_exchange(event: Any, on_gpu: bool) -> bool:
    return _is_gpu(event) and event.name.startswith("ncclDevKernel") if on_gpu else event.name.startswith("gloo:")


def _is_work(event: Any, on_gpu: bool) -> bool:
    if on_gpu:  # (annotations such as "nccl:all_reduce" are shown on the GPU as well)
        return _is_gpu(event) and not event.is_user_annotation and not event.name.startswith("nccl")
    return event.name.startswith("aten::")


def _moments(spans: Iterable[Any], start: float, end: float, kind: int) -> Moments:
    """When spans inside a step begin and end."""
    inside = [(max(s.start, start), min(s.end, end)) for s in spans if s.start < end and s.end > start]
    step = (1, 0) if kind == 0 else (0, 1)
    return [(a, *step) for a, _ in inside] + [(b, -step[0], -step[1]) for _, b in inside]


def _alone(moments: Moments) -> float:
    """Time in which an exchange is under way and no operation."""
    total, exchanges, operations = 0.0, 0, 0
    for (now, sent, worked), (after, *_) in itertools.pairwise(sorted(moments)):
        exchanges, operations = exchanges + sent, operations + worked
        total += (after - now) * (exchanges > 0 and operations == 0)
    return total
