"""Where numbers of a run go besides its own metrics.jsonl: services that are asked for by name, each behind one protocol."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Protocol

import yaml

from mcl.config.optim import LoopSettings
from mcl.engine.run_folder import RunFolder
from mcl.errors import UserError

FILE = "trackers.json"  # what a service calls this run, so that a resumed one goes on there
ODD = re.compile(r"[^\w\-./ ]")


class Tracker(Protocol):
    """A run's numbers, as a service takes them."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step."""

    def close(self) -> None:
        """No more will come."""


class Wandb:
    """Weights & Biases; its files lie in the run folder."""

    def __init__(self, folder: RunFolder, project: str, known: str | None) -> None:
        self._run = _library("wandb").init(
            project=project, name=folder.path.resolve().name, id=known, resume="allow", dir=str(folder.path), config=_config(folder)
        )
        self.id = self._run.id

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class Mlflow:
    """MLflow; where to is MLFLOW_TRACKING_URI's business."""

    def __init__(self, folder: RunFolder, project: str, known: str | None) -> None:
        self._mlflow = _library("mlflow")
        self._mlflow.set_experiment(project)
        name = None if known else folder.path.resolve().name
        self.id = self._mlflow.start_run(run_id=known, run_name=name).info.run_id
        if not known:
            self._mlflow.log_params({key: str(value)[:500] for key, value in _flat(_config(folder)).items()})

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics({ODD.sub("_", name): float(value) for name, value in values.items()}, step=step)

    def close(self) -> None:
        self._mlflow.end_run()


TRACKERS: Mapping[str, Callable[..., Any]] = {"wandb": Wandb, "mlflow": Mlflow}


def require_trackers(settings: LoopSettings) -> None:
    """Raises ``UserError`` if the library of a service that is asked for is missing."""
    for name in settings.trackers:
        _library(name)


def open_trackers(settings: LoopSettings, folder: RunFolder) -> dict[str, Tracker]:
    """Begin with every service that is asked for, or go on where a resumed run was.

    Raises:
        UserError: its library is missing, or it refuses.
    """
    file = folder.path / FILE
    known = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    opened: dict[str, Any] = {}
    for name in settings.trackers:
        try:
            opened[name] = TRACKERS[name](folder, settings.project, known.get(name))
        except UserError:
            raise
        except Exception as error:  # whatever a service raises: no key, no network, no such run
            told = " ".join(str(error).split())[:300] or type(error).__name__
            raise UserError(f"--loop.trackers {name}: does not begin: {told}") from None
    if opened:
        folder.write_json(FILE, {**known, **{name: tracker.id for name, tracker in opened.items()}})
    return opened


def _library(name: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"--loop.trackers {name}: the package is missing: pip install 'mcl[{name}]'") from None


def _config(folder: RunFolder) -> dict[str, Any]:
    return yaml.safe_load(folder.config or "") or {}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
