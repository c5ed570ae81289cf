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

    @torch.no_grad()
    def put(self, keys: Tensor) -> None:
        """Take in (n, width) keys of this process and of all others, in order of rank, over the oldest ones."""
        everyone = all_gather_rows(keys).flatten(0, 1)[-len(self.keys) :].to(self.keys.dtype)
        places = (self.position + torch.arange(len(everyone), device=everyone.device)) % len(self.keys)
        self.keys[places] = everyone
        self.position.copy_((self.position + len(everyone)) % len(self.keys))
