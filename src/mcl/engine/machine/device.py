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
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--loop.device cuda: torch sees no CUDA device; use --loop.device cpu (or auto)")
    place = find_place()
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
        return settings.device
    return "cuda" if torch.cuda.is_available() else "cpu"
