"""Output folders of the generators: never half a set, never somebody else's files."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from mcl.errors import UserError

MARKER = ".mcl-data"
STAGE = ".mcl-partial"
# Everything a generator writes. publish() moves in this order: a set without its JSON files is not complete.
FOLDERS = ("unlabeled", "images")
FILES = ("preview.png", "skipped.txt", "val.json", "test.json", "train.json")
PICTURE = re.compile(r"(unlabeled/(objects|scenes|tiles)|images/(train|val|test))/\d{6}\.(jpg|png)")


def prepare_output(path: Path, overwrite: bool) -> Path:
    """Check an output folder and make an empty staging folder inside it.

    Nothing that is there is touched before :func:`publish`. What a killed run left is not a set, so it is
    cleared without ``overwrite``.

    Args:
        path: folder to write; made if missing.
        overwrite: a set that a generator wrote there may be replaced.

    Returns:
        The staging folder ``path/.mcl-partial``: write there, then call :func:`publish`.

    Raises:
        UserError: not a folder, not writable, not empty, or with files that no generator wrote.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_dir():
            raise UserError(f"--out {path}: is a file; give a folder")
        path.mkdir(parents=True, exist_ok=True)
        inside = {entry.name for entry in path.iterdir()} - {MARKER, STAGE}
        if inside and not overwrite:
            raise UserError(f"--out {path}: the folder is not empty; give another one or --overwrite")
        if inside and not (path / MARKER).is_file():
            raise UserError(
                f"--out {path}: not written by mcl data, so --overwrite does not clear it; give another one"
            )
        foreign = _foreign_file(path)
        if foreign:
            raise UserError(
                f"--out {path}: holds {foreign}, which mcl data did not write; move it away first"
            )
        (path / MARKER).write_text(
            "Written by mcl data. With this file here, --overwrite may replace the set.\n"
        )
        stage = path / STAGE
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir()
    except OSError as error:
        raise UserError(f"--out {path}: cannot be written: {error.strerror or error}") from None
    return stage


def publish(stage: Path) -> None:
    """Replace what is in the output folder by the staged set; ``train.json`` comes last."""
    out = stage.parent
    for name in reversed(FILES):
        (out / name).unlink(missing_ok=True)
    for name in FOLDERS:
        # prepare_output has checked that only generated pictures are in there.
        if (out / name).is_dir():
            shutil.rmtree(out / name)
    for name in (*FOLDERS, *FILES):
        if (stage / name).exists():
            (stage / name).rename(out / name)
    shutil.rmtree(stage)


def _foreign_file(path: Path) -> str | None:
    for entry in sorted(path.rglob("*")):
        name = entry.relative_to(path).as_posix()
        generated = name in (*FILES, MARKER) or name.split("/")[0] == STAGE or PICTURE.fullmatch(name)
        if not generated and (entry.is_symlink() or not entry.is_dir()):
            return name
    return None
