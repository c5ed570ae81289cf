"""A run's folder: one place for everything that a run writes."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcl.engine.lock import FolderLock
from mcl.engine.processes.distributed import barrier, is_main
from mcl.errors import UserError
from mcl.files import write_whole
from mcl.run_files import CHECKPOINTS, CONFIG, LOCK

#: what a run adds to as it goes on; the rest of what it writes before its first checkpoint, the next one replaces
GROWING = ("metrics.jsonl", "tensorboard", "skipped.txt", "curve.jsonl", "detector.best.safetensors")
#: what only a run leaves that has ended well
RESULTS = ("summary.json", "eval.json", "trunk.safetensors", "detector.safetensors")


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run folder; made by ``RunFolder.open``."""

    path: Path

    @classmethod
    def open(
        cls, path: Path | str, resume: bool = False, overwrite: bool = False, lock: bool = True
    ) -> RunFolder:
        """Make or reopen a folder.

        A folder that is not empty is refused without ``resume`` or ``overwrite``, but for one whose run did not get
        as far as its first line of numbers; ``overwrite`` removes only folders that hold a run (a ``config.yaml``),
        so that a mistyped path costs nothing. The folder is locked until the command ends (``mcl.run.guard``) or the
        process does.

        Args:
            lock: of several processes of one run, the first one locks.

        Raises:
            UserError: not empty, not a folder, not writable, nothing to resume, or in use by another run.
        """
        path, held = Path(path), None
        try:
            if lock and (path / LOCK).is_file():
                held = FolderLock(path)  # first: a run that goes on there is the news, not its files
            folder = cls(path)
            # Where nothing is locked, a run that has just begun may be going on.
            if held and not held.warning and not resume and folder.has_nothing_done and not folder.has_numbers:
                folder.forget_attempt()
            else:
                folder._refuse_what_is_there(resume, overwrite)
            path.mkdir(parents=True, exist_ok=True)
            held = held or (FolderLock(path) if lock else None)
            if overwrite and not resume:
                folder._clear()
            (path / CHECKPOINTS).mkdir(exist_ok=True)
            probe = path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            if held:
                held.release()
            raise UserError(f"--out {path}: cannot be written: {error.strerror}") from None
        except BaseException:
            if held:
                held.release()
            raise
        if held and held.warning:
            print(f"warning: {held.warning}", file=sys.stderr)
        return folder

    def _refuse_what_is_there(self, resume: bool, overwrite: bool) -> None:
        path = self.path
        if path.exists() and not path.is_dir():
            raise UserError(f"--out {path}: is a file; give a folder")
        if resume:
            if not self.checkpoint.is_file():
                raise UserError(
                    f"--resume: no checkpoint {self.checkpoint}; leave --resume out to start a new run"
                )
            return
        if not path.is_dir() or all(entry.name == LOCK for entry in path.iterdir()):
            return
        if not overwrite:
            resumable = "" if self.has_nothing_done else "--resume to continue it, "
            raise UserError(f"--out {path}: not empty; give {resumable}--overwrite to replace it")
        if not (path / CONFIG).is_file():
            raise UserError(
                f"--out {path}: not empty and not a run of mcl (no {CONFIG}); choose another folder"
            )

    @property
    def has_nothing_done(self) -> bool:
        """Whether a run began here and left neither a checkpoint nor a result."""
        begun = (self.path / CONFIG).is_file() and (self.path / CHECKPOINTS).is_dir()
        return begun and not self.checkpoint.exists() and not any(any(self.path.glob(name)) for name in RESULTS)

    @property
    def has_numbers(self) -> bool:
        """Whether a line of metrics was written."""
        return self.metrics.exists() and self.metrics.stat().st_size > 0

    def forget_attempt(self) -> None:
        """Remove the numbers of a run that came to nothing, so that the next one may begin here."""
        for name in GROWING:
            _remove(self.path / name)
        for left in (self.path / CHECKPOINTS).iterdir():  # half of a first one
            _remove(left)

    def _clear(self) -> None:
        """Remove all but the lock, which this process holds by now."""
        for entry in self.path.iterdir():
            if entry.name != LOCK:
                _remove(entry)

    @property
    def config(self) -> str | None:
        """The text of config.yaml."""
        file = self.path / CONFIG
        return file.read_text("utf-8") if file.is_file() else None

    @property
    def checkpoint(self) -> Path:
        """The newest complete checkpoint."""
        return self.path / CHECKPOINTS / "last.pt"

    @property
    def metrics(self) -> Path:
        """One JSON object a line, one line a logged step."""
        return self.path / "metrics.jsonl"

    def write_text(self, name: str, text: str) -> Path:
        """Write a small file completely or not at all."""
        target = self.path / name
        write_whole(target, text)
        return target

    def write_json(self, name: str, content: Any) -> Path:
        """Write ``content`` as indented JSON."""
        return self.write_text(name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


class UnwrittenFolder(RunFolder):
    """A run's folder as processes other than rank 0 have it: they read from it and write nothing."""

    def write_text(self, name: str, text: str) -> Path:
        """Nothing is written."""
        return self.path / name


def _remove(path: Path) -> None:
    """Whatever it is; a link, not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def open_run_folder(path: Path | str, resume: bool = False, overwrite: bool = False) -> RunFolder:
    """``RunFolder.open`` on rank 0; the other processes get the folder when that is done."""
    folder = RunFolder.open(path, resume, overwrite) if is_main() else UnwrittenFolder(Path(path))
    barrier()
    return folder
