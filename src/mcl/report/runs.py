"""Read what commands left in their folders: a pre-training, a fine-tuning, an evaluation, a study."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from mcl.errors import UserError, printable
from mcl.run_files import CONFIG

PRETRAIN, FINETUNE, EVALUATE, STUDY = "pre-training", "fine-tuning", "evaluation", "study"
RESULTS, BOOK = "results.json", "cells.jsonl"  # of a study


@dataclass(frozen=True)
class Run:
    """A folder that a command wrote, finished or not.

    Attributes:
        path: the folder.
        kind: one of the constants above.
        settings: of ``config.yaml``, nested; of a study none.
        name: what the page calls it; unique on the page (``read_runs``).
    """

    path: Path
    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    @cached_property
    def summary(self) -> dict[str, Any]:
        """``summary.json``; empty while the run goes on."""
        return _read_json(self.path / "summary.json") or {}

    @cached_property
    def numbers(self) -> dict[str, Any]:
        """``eval.json``: COCO's numbers, empty where none were measured."""
        return _read_json(self.path / "eval.json") or {}

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """Lines of ``metrics.jsonl``: what was logged, with ``step``."""
        return _read_lines(self.path / "metrics.jsonl")

    @cached_property
    def curve(self) -> list[dict[str, Any]]:
        """AP on the way (``--eval_every``), the end included."""
        points = _read_lines(self.path / "curve.jsonl")
        if points and self.summary:
            points.append({"step": self.summary["cost"]["steps"], **{k: self.summary.get(k) for k in ("box_AP", "mask_AP")}})
        return points

    @cached_property
    def results(self) -> dict[str, Any]:
        """A study's ``results.json``; empty before its first training ended."""
        return _read_json(self.path / RESULTS) or {}

    @cached_property
    def trainings(self) -> list[dict[str, Any]]:
        """What a study has done so far, a line each."""
        return _read_lines(self.path / BOOK)

    def predictions(self, kind: str) -> list[dict[str, Any]] | None:
        """Detections in COCO's format, of ``bbox`` or ``segm``; none where there are none."""
        return self.kept(f"predictions.{kind}.json")

    def kept(self, name: str) -> Any:
        """What a JSON file of the folder holds; none where it is not there."""
        return _read_json(self.path / name)

    @property
    def finished(self) -> bool:
        """Whether it ran to its end."""
        return bool(self.results if self.kind == STUDY else self.summary)

    @property
    def steps_done(self) -> int:
        """Steps logged so far."""
        return self.metrics[-1]["step"] if self.metrics else 0

    @property
    def steps_wanted(self) -> int | None:
        """Steps of the whole run, where the settings alone tell."""
        if self.summary.get("cost"):
            return self.summary["cost"].get("steps")
        return (self.settings.get("schedule") or {}).get("steps")


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Runs of folders, each with a name of its own: as few of the last words of its path as tell it from the others.

    Raises:
        UserError: a folder is not there, or no command of ours wrote it.
    """
    distinct = list(dict.fromkeys(Path(path).resolve() for path in paths))
    names = _shortest_names(distinct)
    return [_read_run(path, name) for path, name in zip(distinct, names, strict=True)]


def _read_run(path: Path, name: str) -> Run:
    if not path.is_dir():
        raise UserError(f"{path}: {'is a file; give' if path.exists() else 'no such folder; give'} the run folder")
    name = printable(name)
    if (path / RESULTS).is_file() or (path / BOOK).is_file():
        return Run(path, STUDY, name=name)
    settings = _read_config(path)
    kind = _kind_of(settings)
    if kind is None:
        raise UserError(f"{path}: not a folder of mcl pretrain, finetune, evaluate or compare{_runs_below(path)}")
    return Run(path, kind, settings, name)


def _kind_of(settings: Mapping[str, Any]) -> str | None:
    keys = set(settings)
    for kind, needed in ((PRETRAIN, {"data", "method"}), (FINETUNE, {"trunk", "train", "val"}), (EVALUATE, {"detector", "val"})):
        if needed <= keys:
            return kind
    return None


def _runs_below(path: Path) -> str:
    """A hint for whoever gave the folder that holds the runs."""
    below = sorted(entry.name for entry in path.iterdir() if (entry / CONFIG).is_file() or (entry / RESULTS).is_file())
    return f"; it holds such folders: give them, for example {path / below[0]}" if below else f" (no {CONFIG} of theirs)"


def _shortest_names(paths: Sequence[Path]) -> list[str]:
    for words in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-words:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def _read_config(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load((path / CONFIG).read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path / CONFIG}: cannot be read: {' '.join(str(error).split())}") from None
    return settings if isinstance(settings, dict) else {}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON lines; what a kill or a run under way left half-written is passed over."""
    rows = []
    try:
        text = path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return rows
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows
