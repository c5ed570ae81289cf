"""Detectron2's .pkl files: written so that every numpy reads them, read without running anything in them."""

from __future__ import annotations

import importlib
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mcl.errors import UserError
from mcl.nn.stored import require_regular, short, what_it_is

#: all that may be named in a file: what numpy's arrays, and nothing else, are made of
ALLOWED = {
    ("numpy", "ndarray"), ("numpy", "dtype"), ("collections", "OrderedDict"), ("_codecs", "encode"),
    ("numpy.core.multiarray", "_reconstruct"), ("numpy.core.multiarray", "scalar"), ("numpy.core.numeric", "_frombuffer"),
}  # fmt: skip


class _Refused(Exception):
    """A name that is not allowed."""


class _Restricted(pickle.Unpickler):
    """Looks up the names in ``ALLOWED`` and no others: a pickle can call only what it can name."""

    def find_class(self, module: str, name: str) -> Any:
        # numpy 2 renamed numpy.core; files of either age are read.
        if (module.replace("numpy._core", "numpy.core"), name) not in ALLOWED:
            raise _Refused(f"it names {module}.{name}")
        if module == "collections":
            return OrderedDict
        if not module.startswith(("numpy.core", "numpy._core")):
            return getattr(importlib.import_module(module), name)
        leaf = module.rpartition(".")[2]
        try:
            return getattr(importlib.import_module(f"numpy._core.{leaf}"), name)
        except ImportError:
            return getattr(importlib.import_module(f"numpy.core.{leaf}"), name)


def read_pickle(path: Path) -> dict[str, Any]:
    """Content of a .pkl of numpy arrays and plain types.

    Raises:
        UserError: the file is missing, damaged, or names anything but numpy arrays (it could run code).
    """
    require_regular(path)
    try:
        with open(path, "rb") as file:
            content = _Restricted(file, encoding="latin1").load()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except _Refused as error:
        raise UserError(
            f"{path}: refused: more than numpy arrays and plain types in it ({error}); such a file can run any code"
        ) from None
    except Exception as error:  # a damaged pickle can raise anything
        what = what_it_is(path) or f"damaged or cut short ({type(error).__name__})"
        raise UserError(f"{path}: no weights can be read from it: it is {what}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a dictionary of arrays, found a {type(content).__name__}")
    return content


def write_pickle(path: Path, content: Mapping[str, Any]) -> None:
    """Write arrays and plain types. ``numpy._core`` is written as ``numpy.core``, which numpy 1 and 2 both know."""
    # Protocol 3 keeps names as lines of text (so they can be exchanged) and arrays as plain bytes.
    data = pickle.dumps(dict(content), protocol=3)
    data = data.replace(b"cnumpy._core.multiarray\n_reconstruct\n", b"cnumpy.core.multiarray\n_reconstruct\n")
    path.write_bytes(data)


def as_array(tensor: Tensor) -> np.ndarray:
    """A tensor as an array that owns its numbers (0-d stays an array)."""
    return np.array(tensor.detach().cpu().numpy())


def as_tensor(value: Any, path: Path, name: str) -> Tensor:
    """An array of numbers as a tensor that owns them.

    Args:
        value: what the file at ``path`` has under ``name``.

    Raises:
        UserError: it is none, or claims more numbers than the file has bytes for.
    """
    if not isinstance(value, np.ndarray | np.generic) or value.dtype.kind not in "fiub":
        found = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
        raise UserError(f"{path}: {short(name)}: expected an array of numbers, found {found}")
    if value.nbytes > (size := path.stat().st_size):
        raise UserError(
            f"{path}: {short(name)} claims {list(value.shape)} numbers, more than the file of {size:,} bytes holds"
        )
    return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))
