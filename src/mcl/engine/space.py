"""Whether the disk has room for a run, asked before its first step rather than told by its first checkpoint."""

from __future__ import annotations

import shutil
from typing import Any

import torch

from mcl.engine.checkpoint import named_tensors
from mcl.engine.run_folder import RunFolder
from mcl.errors import RunFailed

BESIDE = 32 * 2**20  # metrics, TensorBoard, pictures
MOMENTA = {"AdamW": 2, "Adam": 2}  # numbers kept for each weight that is trained; of the others one


def checkpoint_bytes(state: Any, optimizer: torch.optim.Optimizer | None) -> int:
    """Size of a checkpoint as it will be, momenta included that an optimizer makes in its first step."""
    stored = sum(tensor.nbytes for _, tensor in named_tensors(state))
    if optimizer is None or optimizer.state:
        return stored
    trained = sum(p.nbytes for group in optimizer.param_groups for p in group["params"])
    return stored + MOMENTA.get(type(optimizer).__name__, 1) * trained


def require_space(folder: RunFolder, state: Any, optimizer: torch.optim.Optimizer | None) -> None:
    """A new checkpoint is written while the old one is still there.

    Raises:
        RunFailed: there is less room than that; nothing has been trained.
    """
    size = checkpoint_bytes(state, optimizer)
    needed = (1 if folder.checkpoint.exists() else 2) * size + BESIDE
    free = shutil.disk_usage(folder.path).free
    if free < needed:
        raise RunFailed(
            f"--out {folder.path}: {free / 1e9:.2f} GB are free there and about {needed / 1e9:.2f} GB are needed "
            f"(checkpoints of {size / 1e9:.2f} GB, the old one stays until the new one is written); make room, or choose "
            "another folder"
        )
