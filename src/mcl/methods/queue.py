"""Keys of earlier batches, as negatives: first in, first out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcl.engine.processes.distributed import all_gather_rows


class KeyQueue(nn.Module):
    """A ring of L2-normalised keys; it begins with random ones (MoCo, section 3.2). Part of checkpoints.

    Args:
        size: keys that it holds.
        width: of a key.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    def put(self, keys: Tensor) -> None:
        """Take in (n, width) keys of this process and of all others, in order of rank, over the oldest ones."""
        self.push(all_gather_rows(keys).flatten(0, 1))

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Take in (n, width) keys that are the same on all processes, over the oldest ones."""
        newest = keys[-len(self.keys) :].to(self.keys.dtype)
        places = (self.position + torch.arange(len(newest), device=newest.device)) % len(self.keys)
        self.keys[places] = newest
        self.position.copy_((self.position + len(newest)) % len(self.keys))
