"""One training of a study: a command of ``mcl`` in a run folder of its own."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mcl.config.base import Command, dump
from mcl.data.sources.find import find_images
from mcl.engine.run_folder import RunFolder
from mcl.errors import UserError

Kind = Literal["pretrain", "teacher", "trial", "cell"]


@dataclass(frozen=True)
class Job:
    """A training.

    Attributes:
        id: its kind, and a hash of what its result depends on.
        title: for a person.
        command: of ``mcl``.
        settings: of that command, with ``out``.
        needs: ids of jobs that must be done before.
        prepare: writes files that it reads (lists of images or scenes).
        may_fail: a training that goes wrong (a loss that is not finite) is a result: the settings were no good.
        facts: what its line in the book says beside its result.
    """

    id: str
    kind: Kind
    title: str
    command: Literal["pretrain", "finetune"]
    settings: Command
    needs: tuple[str, ...] = ()
    prepare: Callable[[], None] = lambda: None
    may_fail: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return self.settings.out

    @property
    def config(self) -> Path:
        """Its settings, as ``--config`` takes them."""
        return self.folder.with_name(self.folder.name + ".yaml")

    @property
    def log(self) -> Path:
        """What it prints."""
        return self.folder.with_name(self.folder.name + ".log")

    @property
    def summary(self) -> dict[str, Any] | None:
        """What it found, once it has ended well."""
        file = self.folder / "summary.json"
        return json.loads(file.read_text("utf-8")) if file.is_file() else None

    def words(self) -> list[str]:
        """Write what it reads and give its command line: it goes on from its checkpoint, if there is one."""
        self.prepare()
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        RunFolder(self.folder.parent).write_text(self.config.name, dump(self.settings))
        resume = RunFolder(self.folder).checkpoint.is_file()
        if not resume and self.folder.is_dir():
            shutil.rmtree(self.folder)  # made by this study and broken off before its first checkpoint
        return [sys.executable, "-m", "mcl", self.command, "--config", str(self.config), *(["--resume"] if resume else [])]


def write_scenes(source: Path, target: Path, count: int, seed: int | None) -> None:
    """The first ``count`` scenes of a COCO JSON, or of its scenes in an order drawn by a seed (nested in ``count``).

    Raises:
        UserError: it has fewer.
    """
    content = json.loads(source.read_text("utf-8"))
    images = content["images"]
    if count > len(images):
        raise UserError(f"{source}: has {len(images)} scenes, labels asks for {count}")
    if seed is not None:
        random.Random(f"labels {seed}").shuffle(images)
    content["images"] = images[:count]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in kept]
    _write(target, json.dumps(content))


def write_list(source: Path, target: Path, count: int) -> None:
    """A text list of ``count`` images of a folder, spread evenly over it.

    Raises:
        UserError: it has fewer.
    """
    images = find_images(source)
    if count > len(images):
        raise UserError(f"{source}: has {len(images)} images, take asks for {count}")
    names = [str(Path(images[position * len(images) // count]).resolve()) for position in range(count)]
    _write(target, "\n".join(names) + "\n")


def _write(target: Path, text: str) -> None:
    if not target.is_file() or target.read_text("utf-8") != text:
        target.parent.mkdir(parents=True, exist_ok=True)
        RunFolder(target.parent).write_text(target.name, text)
