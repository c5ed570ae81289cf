"""Files complete or not at all, and where those lie that are kept for the user."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def user_cache() -> Path:
    """The user's folder for what can be found again: ``$XDG_CACHE_HOME/mcl``, or ``~/.cache/mcl``.

    A user without a home (a container's number without HOME) gets ``/.cache/mcl``, as Docker would have it.
    """
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "mcl"
    try:
        return Path.home() / ".cache/mcl"
    except RuntimeError:
        return Path("/.cache/mcl")


def write_whole(path: Path, text: str) -> None:
    """Write a small file aside, then rename it.

    Raises:
        OSError: it cannot be written; nothing is left of it then, and an older file is as it was.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, "utf-8")
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


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
