"""Files that appear complete or not at all: written aside, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mcl.errors import RunFailed, UserError


@contextmanager
def staged(out: Path, companions: tuple[str, ...] = (), overwrite: bool = False) -> Iterator[Path]:
    """Give a folder beside ``out`` to write into; what is in it is moved to its place when the block ends well.

    Args:
        out: where the result goes: the entry of the same name in the folder given, a file or a folder.
        companions: names of further files that go beside ``out``.
        overwrite: replace what is there.

    Raises:
        UserError: something is there already (without ``overwrite``), or the place cannot be written.
        RunFailed: the disk is full.
    """
    targets = [out, *(out.with_name(name) for name in companions)]
    taken = [target for target in targets if target.exists() or target.is_symlink()]
    if taken and not overwrite:
        raise UserError(f"--out {out}: {taken[0]} exists; choose another name or give --overwrite")
    if out.is_dir() and not (out / "config.json").is_file():
        raise UserError(f"--out {out}: is a folder that mcl export did not write; choose another name")
    aside = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        aside.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror}") from None
    try:
        yield aside
        for target in targets:
            if target.is_dir():
                shutil.rmtree(target)
            (aside / target.name).replace(target)
    except OSError as error:
        raise RunFailed(f"--out {out}: could not be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
