"""A run's folder: one place for everything that a run writes."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcl.engine.distributed import is_main, wait_for_all
from mcl.errors import UserError

CONFIG = "config.yaml"


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run folder; made by ``RunFolder.open``."""

    path: Path

    @classmethod
    def open(cls, path: Path | str, resume: bool = False, overwrite: bool = False) -> RunFolder:
        """Make or reopen a folder.

        A folder that is not empty is refused without ``resume`` or ``overwrite``; ``overwrite`` removes only
        folders that hold a run (a ``config.yaml``), so that a mistyped path costs nothing.

        Raises:
            UserError: not empty, not a folder, not writable, or nothing to resume.
        """
        path = Path(path)
        folder = cls(path)
        if path.exists() and not path.is_dir():
            raise UserError(f"--out {path}: is a file; give a folder")
        occupied = path.is_dir() and any(path.iterdir())
        if resume and not folder.checkpoint.is_file():
            raise UserError(
                f"--resume: no checkpoint {folder.checkpoint}; leave --resume out to start a new run"
            )
        if occupied and not resume:
            if not overwrite:
                raise UserError(
                    f"--out {path}: not empty; give --resume to continue it, --overwrite to replace it"
                )
            if not (path / CONFIG).is_file():
                raise UserError(
                    f"--out {path}: not empty and not a run of mcl (no {CONFIG}); choose another folder"
                )
            shutil.rmtree(path)
        try:
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
            probe = path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(f"--out {path}: cannot be written: {error.strerror}") from None
        return folder

    @property
    def checkpoint(self) -> Path:
        """The newest complete checkpoint."""
        return self.path / "checkpoints" / "last.pt"

    @property
    def metrics(self) -> Path:
        """One JSON object a line, one line a logged step."""
        return self.path / "metrics.jsonl"

    def write_text(self, name: str, text: str) -> Path:
        """Write a small file completely or not at all."""
        target = self.path / name
        partial = target.with_name(target.name + ".partial")
        partial.write_text(text, "utf-8")
        os.replace(partial, target)
        return target

    def write_json(self, name: str, content: Any) -> Path:
        """Write ``content`` as indented JSON."""
        return self.write_text(name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


class UnwrittenFolder(RunFolder):
    """A run's folder as processes other than rank 0 have it: they read from it and write nothing."""

    def write_text(self, name: str, text: str) -> Path:
        """Nothing is written."""
        return self.path / name


def open_run_folder(path: Path | str, resume: bool = False, overwrite: bool = False) -> RunFolder:
    """``RunFolder.open`` on rank 0; the other processes get the folder when that is done."""
    folder = RunFolder.open(path, resume, overwrite) if is_main() else UnwrittenFolder(Path(path))
    wait_for_all()
    return folder
