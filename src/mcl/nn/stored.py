"""Reading weights of ours with care: anything may be in a file, and each mistake is one line that says which.

A file of ours is in safetensors form and describes itself: metadata whose values are JSON (see ``described``).
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from mcl.errors import UserError, printable

TRUNK_FILE, DETECTOR_FILE = "trunk.safetensors", "detector.safetensors"
LFS = b"version https://git-lfs.github.com/spec/"
FLOATING = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


def stored_file(path: Any) -> Path:
    """The trunk's file, given itself or a run folder; a fine-tuned run has its trunk in the detector's file.

    Raises:
        UserError: no path, or nothing there.
    """
    if not isinstance(path, str | Path):
        raise UserError(f"a run folder or weights file is needed, got {short(path)}")
    path = Path(path)
    kind = what_is_there(path)
    if kind != "folder":
        if not kind:
            raise UserError(f"{str(path)[:300]}: no {TRUNK_FILE} there")
        return require_regular(path)
    for name in (TRUNK_FILE, DETECTOR_FILE):
        if (path / name).exists():
            return require_regular(path / name)
    unfinished = " (the run in this folder has not finished)" if (path / "config.yaml").is_file() else ""
    raise UserError(f"{path}: no {TRUNK_FILE} there{unfinished}")


def read_stored(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Metadata and tensors of a file of ours. Values that are no JSON stay text: other tools' files have such.

    Raises:
        UserError: not a safetensors file, cut short, or with numbers that no network has (see ``require_sound``).
    """
    metadata, tensors = read_safetensors(file)
    require_sound(tensors, str(file))
    return {key: _parsed(value) for key, value in metadata.items()}, tensors


def read_safetensors(file: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of any safetensors file.

    Raises:
        UserError: not one, or damaged.
    """
    with _opened(file) as opened:
        names = opened.keys()
        return dict(opened.metadata() or {}), {name: opened.get_tensor(name) for name in names}


def safetensors_metadata(file: Path) -> dict[str, str]:
    """As ``read_safetensors``, without reading the tensors."""
    with _opened(file) as opened:
        return dict(opened.metadata() or {})


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    require_regular(file)
    try:
        with safe_open(file, "pt") as opened:
            yield opened
    except Exception as error:  # a damaged file can raise anything
        raise UserError(f"{file}: not a readable safetensors file: {_damage(file, error)}") from None


def what_is_there(path: Path) -> str:
    """``folder``, ``file``, ``something else`` (a pipe, a device), or "" for nothing."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # also a name too long for a file, or with a zero byte in it
        return ""
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "something else"


def require_regular(file: Path) -> Path:
    """``file``, which is there and has a content (a pipe would be waited for, without end)."""
    kind = what_is_there(file)
    if kind != "file":
        told = {"": "cannot be found", "folder": "is a folder"}.get(kind, "is a pipe or a device")
        raise UserError(f"{str(file)[:300]}: {told}, a file of weights is needed")
    return file


def what_it_is(file: Path) -> str | None:
    """In words, what a file is that cannot hold weights; None: it may."""
    try:
        with open(file, "rb") as opened:
            head = opened.read(512)
    except OSError:
        return None
    if not head:
        return "empty"
    if head.startswith(LFS):
        return "a pointer of Git LFS, not the weights themselves (git lfs pull fetches them)"
    if head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return "a web page, not weights (from a download that wanted a login?)"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return "text, not weights"
    return None


def require_sound(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse tensors that no trained network has.

    Raises:
        UserError: numbers that are not finite (a run that diverged, or a damaged file), of a type that holds no
            weights, or variances below zero.
    """
    broken = []
    for name, tensor in tensors.items():
        weight = name.endswith((".weight", ".bias", ".running_mean", ".running_var"))
        plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not plain or tensor.dtype not in (FLOATING if weight else FLOATING + WHOLE):
            kind = str(tensor.dtype if plain else tensor.layout).removeprefix("torch.")
            raise UserError(f"{where}: {short(name)} holds {kind} numbers; weights of 16, 32 or 64 bit are needed")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            broken.append(name)
        elif name.endswith(".running_var") and (tensor < 0).any():
            raise UserError(f"{where}: {short(name)} has variances below zero: the file is damaged")
    if broken:
        raise UserError(
            f"{where}: {len(broken)} of {len(tensors)} tensors have numbers that are NaN or infinite "
            f"({short(broken[0])}): the run diverged, or the file is damaged"
        )


def require_version(metadata: Mapping[str, Any], newest: int, where: str) -> None:
    """Refuse a file that a newer mcl wrote."""
    version = metadata.get("format_version", 0)
    if type(version) is not int:
        raise UserError(f"{where}: its format_version is {short(version)}, not a number")
    if version > newest:
        raise UserError(f"{where}: format {version}, this mcl reads up to {newest}")


def short(value: Any, most: int = 60) -> str:
    """A value from a file, for a message."""
    text = printable(repr(value))
    return text if len(text) <= most else f"{text[:most]}..."


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _damage(file: Path, error: Exception) -> str:
    """What safetensors says of a file, in words that tell what to do."""
    if known := what_it_is(file):
        return f"it is {known}"
    told = " ".join(str(error).split()).removeprefix("Error while deserializing header: ")
    if "not fully covered" in told or "invalid header length" in told or "header too small" in told:
        return f"cut short or damaged, copy it again ({told})"
    return told[:150]
