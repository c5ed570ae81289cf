"""Tensors out of a file of any tool, by what is in it and not by its name. Nothing in a file is ever executed."""

from __future__ import annotations

import argparse
import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mcl.errors import UserError
from mcl.nn.stored import read_safetensors, require_regular, short, what_it_is

#: plain types that old checkpoints keep beside their weights; building one runs no code of the file
PLAIN = [
    argparse.Namespace,
    np.dtype,
    np.ndarray,
    *(getattr(np.dtypes, n) for n in ("Float64DType", "Float32DType", "Int64DType")),
]
LARGEST_HEADER = 100_000_000  # of safetensors, in bytes


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors files do: the length of a header, and its first brace."""
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError:
        return False
    return len(start) == 9 and start[8:] == b"{" and struct.unpack("<Q", start[:8])[0] <= LARGEST_HEADER


def read_content(path: Path) -> Any:
    """Content of a .pth, .pt, .bin or .safetensors: a dictionary of tensors, or what a checkpoint keeps around one.

    Raises:
        UserError: no file of weights, damaged, or holding more than tensors and plain types.
    """
    require_regular(path)
    if what := what_it_is(path):
        raise UserError(f"{path}: no weights can be read from it: it is {what}")
    if is_safetensors(path):
        return read_safetensors(path)[1]
    try:
        # Given a path, torch goes by its ending.
        with open(path, "rb") as file, warnings.catch_warnings(), torch.serialization.safe_globals(PLAIN):
            warnings.simplefilter("ignore")  # of old forms of pickles
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        told = " ".join(str(error).split())
        if isinstance(error, pickle.UnpicklingError) and "Unsupported" in told:
            named = re.search(r"GLOBAL (\S+)", told)
            what = f" ({named[1]})" if named else ""
            raise UserError(
                f"{path}: refused: holds more than tensors and plain types{what}, which could run any code; "
                "save its state dict alone"
            ) from None
        raise UserError(f"{path}: not a readable weights file, cut short or damaged ({told[:120]})") from None


def require_no_larger(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that claim more numbers than the file has bytes for (views repeat theirs without end).

    Raises:
        UserError: with the first of them.
    """
    size = path.stat().st_size
    for name, tensor in tensors.items():
        if tensor.numel() * tensor.element_size() > size:
            raise UserError(
                f"{path}: {short(name)} claims {list(tensor.shape)} numbers, more than the file of {size:,} bytes holds"
            )
