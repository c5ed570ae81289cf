"""Where a run computes."""

from __future__ import annotations

import torch

from mcl.config.optim import LoopSettings
from mcl.errors import UserError


def prepare_device(settings: LoopSettings) -> torch.device:
    """The device of ``loop.device``; sets the number of CPU threads.

    Raises:
        UserError: CUDA asked for and not there.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--loop.device cuda: torch sees no CUDA device; use --loop.device cpu (or auto)")
    name = settings.device if settings.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)
