"""Checkpoints: tensors and plain types only, written aside, synced, then renamed."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from mcl.errors import RunFailed, UserError

FORMAT_VERSION = 1


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Replace ``path`` by a new checkpoint; the old one stays until the new one is complete on disk.

    Raises:
        RunFailed: the disk is full or not writable; the previous checkpoint is untouched.
    """
    partial = path.with_suffix(".partial")
    try:
        with open(partial, "wb") as file:
            torch.save({"format_version": FORMAT_VERSION, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError of its zip writer
        partial.unlink(missing_ok=True)
        kept = f"; the previous one ({path}) is untouched" if path.exists() else ""
        raise RunFailed(
            f"checkpoint {path} could not be written: {' '.join(str(error).split())[:200]}{kept}"
        ) from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without running any code in it.

    Raises:
        UserError: missing, damaged, or of another format version.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"checkpoint {path}: no such file") from None
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError, ValueError) as error:
        raise UserError(
            f"checkpoint {path}: damaged or not a checkpoint of mcl ({type(error).__name__})"
        ) from None
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(f"checkpoint {path}: format {version}, this mcl reads format {FORMAT_VERSION}")
    return content
