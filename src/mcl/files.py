"""Files of tensors, complete or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file aside, then rename it.

    It gets the rights of any new file (the umask's): safetensors itself would give them to the owner alone.

    Args:
        tensors: on any device.

    Raises:
        SafetensorError, OSError: it cannot be written; nothing is left of it then, and an older file is as it was.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.unlink(missing_ok=True)
        partial.touch()
        rights = partial.stat().st_mode
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial, dict(metadata))
        partial.chmod(rights)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
