"""Checkpoints: tensors and plain types only, written aside, synced, then renamed."""

from __future__ import annotations

import contextlib
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mcl.engine.trainable import Trainable
from mcl.errors import RunFailed, UserError

FORMAT_VERSION = 1
SHOWN = 5  # tensors that are named when a state does not fit


class CheckpointFailed(RunFailed):
    """A checkpoint could not be written; the previous one is as it was."""


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Replace ``path`` by a new checkpoint; the old one stays until the new one is complete on disk.

    Raises:
        CheckpointFailed: the disk is full or not writable; the previous checkpoint is untouched.
    """
    partial = path.with_suffix(".partial")
    try:
        with open(partial, "wb") as file:
            torch.save({"format_version": FORMAT_VERSION, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError of its zip writer
        _remove(partial)
        kept = f"; the previous one ({path}) is untouched" if path.exists() else ""
        raise CheckpointFailed(f"checkpoint {path} could not be written: {_reason(error)}{kept}") from None


def load_checkpoint(path: Path, tensors: bool = True) -> dict[str, Any]:
    """Read a checkpoint without running any code in it.

    Args:
        tensors: False leaves the tensors' values on disk, and does not look whether they are sound.

    Raises:
        UserError: missing, damaged (also a single flipped bit), with objects in it, or of another format version.
    """
    try:
        damaged = zipfile.ZipFile(path).testzip() if tensors else None  # torch itself checks no sums
        if damaged is not None:
            raise UserError(f"checkpoint {path}: damaged on disk (checksum of {damaged}){_advice(path)}")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=not tensors)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"checkpoint {path}: no such file") from None
    except pickle.UnpicklingError as error:
        raise UserError(
            f"checkpoint {path}: holds {_foreign_object(error)}, and only tensors and plain types are read; "
            "nothing of it was run; it is not a checkpoint of mcl"
        ) from None
    except Exception as error:  # a damaged file can make a reader raise anything
        raise UserError(
            f"checkpoint {path}: damaged, cut off or not a checkpoint of mcl ({type(error).__name__}){_advice(path)}"
        ) from None
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(f"checkpoint {path}: format {version}, this mcl reads format {FORMAT_VERSION}")
    return content


def take_back(trainable: Trainable, path: Path, total_steps: int) -> tuple[int, dict[str, float]]:
    """Give a run's checkpoint to what it trains.

    Args:
        total_steps: of the run, which may not be fewer than were done.

    Returns:
        The steps done, and what they cost (``seconds``, ``waited``).

    Raises:
        UserError: the checkpoint is damaged, of another network, or of a longer run.
    """
    content = load_checkpoint(path)
    if missing := {"step", "cost", "state"} - set(content):
        raise UserError(f"checkpoint {path}: has no {', '.join(sorted(missing))}")
    if content["step"] > total_steps:
        raise UserError(
            f"checkpoint {path} has done {content['step']} steps, more than the {total_steps} asked for"
        )
    require_fit(path, trainable.state_dict(), content["state"])
    try:
        trainable.load_state_dict(content["state"])
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"checkpoint {path} does not fit this run: {' '.join(str(error).split())[:300]}"
        ) from None
    return content["step"], content["cost"]


def first_not_finite(state: Any) -> str | None:
    """Name of the first tensor in a nested state that holds NaN or infinity."""
    for name, tensor in named_tensors(state):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return None


def misfit(ours: Any, theirs: Any) -> list[str]:
    """What differs between two nested states' tensors, a few words each: shapes, missing ones, ones too many.

    Optimizer states are left out: a fresh optimizer has none yet.
    """
    a, b = (
        {n: tuple(t.shape) for n, t in named_tensors(state) if not n.startswith("optimizer.")}
        for state in (ours, theirs)
    )
    shapes = [f"{n} is {b[n]} in the checkpoint, {a[n]} now" for n in a if n in b and a[n] != b[n]]
    missing = [f"{n} is not in the checkpoint" for n in a if n not in b]
    return shapes + missing + [f"{n} is only in the checkpoint" for n in b if n not in a]


def require_fit(path: Path, ours: Mapping[str, Any], theirs: Any) -> None:
    """Raises ``UserError`` that says what differs, unless a checkpoint's state fits the network."""
    if not isinstance(theirs, Mapping) or not set(ours) <= set(theirs):
        found = ", ".join(map(str, theirs)) if isinstance(theirs, Mapping) else type(theirs).__name__
        raise UserError(f"checkpoint {path}: holds {found or 'nothing'}; this run needs {', '.join(ours)}")
    if differences := misfit(ours, theirs):
        more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        raise UserError(
            f"checkpoint {path} does not fit this network: {'; '.join(differences[:SHOWN])}{more}; settings "
            "that change shapes cannot be changed within a run"
        )


def named_tensors(state: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested dictionaries and lists, with its dotted name."""
    if torch.is_tensor(state):
        yield prefix, state
    elif isinstance(state, Mapping):
        for key, value in state.items():
            yield from named_tensors(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(state, list | tuple):
        for position, value in enumerate(state):
            yield from named_tensors(value, f"{prefix}.{position}" if prefix else str(position))


def _sync_folder(folder: Path) -> None:
    """Make the renaming itself durable (a file system may otherwise forget it in a power cut)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems refuse to sync a folder; the rename has happened all the same
    finally:
        os.close(descriptor)


def _remove(partial: Path) -> None:
    with contextlib.suppress(OSError):  # the disk is read-only by now
        partial.unlink(missing_ok=True)


def _reason(error: BaseException) -> str:
    # torch's zip writer says "PytorchStreamWriter failed writing file" and hides the system's word behind it.
    while error.__context__ is not None and not isinstance(error, OSError):
        error = error.__context__
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200]


def _foreign_object(error: pickle.UnpicklingError) -> str:
    """torch says ``Unsupported global: GLOBAL os.system was not an allowed global`` amid much advice."""
    _, found, rest = str(error).partition("GLOBAL ")
    return f"the Python object {rest.split()[0]}" if found and rest.split() else "Python objects"


def _advice(path: Path) -> str:
    return "; a run can only start anew without it (--overwrite)" if path.name == "last.pt" else ""
