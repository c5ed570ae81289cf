"""Where a run computes."""

from __future__ import annotations

import torch

from mcl.config.optim import LoopSettings
from mcl.engine.processes.launch import find_place
from mcl.errors import UserError


def prepare_device(settings: LoopSettings) -> torch.device:
    """The device of ``loop.device``, on a machine with several processes each one's own GPU; sets CPU threads.

    Raises:
        UserError: CUDA asked for and not there, or fewer GPUs than processes.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    place, index = find_place(), _index(settings)
    if settings.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--loop.device {settings.device}: torch sees no CUDA device; use --loop.device cpu (or auto)")
    if index is not None:
        return _one_gpu(settings.device, index, place.count)
    if device_type(settings) == "cpu" or place.count == 1:
        return torch.device(device_type(settings))
    if place.local_rank >= torch.cuda.device_count():
        raise UserError(
            f"process {place.local_rank} of this machine has no GPU: torch sees {torch.cuda.device_count()}; "
            "start as many processes as GPUs, or give --loop.device cpu"
        )
    torch.cuda.set_device(place.local_rank)
    return torch.device("cuda", place.local_rank)


def device_type(settings: LoopSettings) -> str:
    """``cpu`` or ``cuda``."""
    if settings.device != "auto":
        return settings.device.partition(":")[0]
    return "cuda" if torch.cuda.is_available() else "cpu"


def _index(settings: LoopSettings) -> int | None:
    """Number of the GPU that is asked for, if one is."""
    number = settings.device.partition(":")[2]
    return int(number) if number else None


def _one_gpu(name: str, index: int, processes: int) -> torch.device:
    if processes > 1:
        raise UserError(f"--loop.device {name}: several processes take a GPU each; give cuda (CUDA_VISIBLE_DEVICES chooses among them)")
    if index >= torch.cuda.device_count():
        raise UserError(f"--loop.device {name}: torch sees {torch.cuda.device_count()} GPU(s), the first is cuda:0")
    torch.cuda.set_device(index)  # what names no device, pinned memory for example, means this one
    return torch.device("cuda", index)
