"""Which folder a command may write: none that one of its inputs lies in, and none with the run of another command."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from mcl.config.demo import DemoSettings
from mcl.config.finetune import EvaluateSettings, FinetuneSettings
from mcl.config.predict import PredictSettings
from mcl.config.pretrain import PretrainSettings
from mcl.engine.processes.distributed import is_main
from mcl.engine.run_folder import CONFIG, RunFolder, open_run_folder
from mcl.errors import UserError

WILD = re.compile(r"[*?\[{]")
RUNS: Mapping[str, type[BaseModel]] = {
    "pretrain": PretrainSettings, "finetune": FinetuneSettings, "evaluate": EvaluateSettings, "demo": DemoSettings,
    "predict": PredictSettings,
}  # fmt: skip
ALIKE = 0.5  # share of settings that a config.yaml has in common with a command's, at least


def claim_folder(settings: BaseModel, command: str) -> RunFolder:
    """Open ``settings.out`` for a command, as ``open_run_folder`` does.

    Args:
        settings: has ``out`` and ``overwrite``, maybe ``resume``; every other path in it is an input.
        command: its name, for example ``"pretrain"``.

    Raises:
        UserError: an input lies in the folder, or another command's run (or something that is no run of mcl); or what
            ``open_run_folder`` refuses. Nothing has been touched then.
    """
    resume = getattr(settings, "resume", False)
    if is_main() and not resume and _exists(settings.out) and settings.out.is_dir() and any(settings.out.iterdir()):
        require_inputs_kept(settings)
        _require_own_run(settings, command)
    return open_run_folder(settings.out, resume, settings.overwrite)


def inputs_of(settings: BaseModel, prefix: str = "") -> Iterator[tuple[str, Path]]:
    """(setting, path) of everything among the settings, but ``out``, that leads to something on disk."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            yield from inputs_of(value, f"{prefix}{name}.")
        elif isinstance(value, str | Path) and prefix + name != "out":
            path = Path(os.path.dirname(text[: wild.start()]) if (wild := WILD.search(text := str(value))) else text)
            if path.parts and _exists(path):
                yield prefix + name, path


def require_inputs_kept(settings: BaseModel) -> None:
    """Raises ``UserError`` if an input of a command lies in ``settings.out``, or is it."""
    out = settings.out.resolve()
    for name, path in inputs_of(settings):
        # A run's own settings are read by now, and are written again.
        own = name == "config" and path.resolve() == out / CONFIG
        if path.resolve().is_relative_to(out) and not own:
            raise UserError(
                f"--out {settings.out}: --{name} {path} lies in it and would be lost; choose another folder"
            )


def command_of(config: Mapping[str, Any], commands: Mapping[str, type[BaseModel]] = RUNS) -> str | None:
    """Name of the command whose settings a config.yaml holds; None if it is of none."""
    best, alike = None, ALIKE
    for name, settings in commands.items():
        known = set(settings.model_fields)
        share = len(known & set(config)) / len(known | set(config))
        if share > alike:
            best, alike = name, share
    return best


def _require_own_run(settings: BaseModel, command: str) -> None:
    out, folder = settings.out, RunFolder(settings.out)
    if not folder.config or (folder.has_nothing_done and not folder.has_numbers):
        return
    try:
        config = yaml.safe_load(folder.config)
    except yaml.YAMLError:
        config = None
    owner = command_of(config, {**RUNS, command: type(settings)}) if isinstance(config, dict) else None
    if owner is None:
        raise UserError(f"--out {out}: not empty and not a run of mcl (its {CONFIG} is not); choose another folder")
    if owner != command:
        raise UserError(f"--out {out}: holds a run of mcl {owner}, which mcl {command} does not replace; choose another folder")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or no name: a URL, a command
        return False
