"""A run's own settings: what its config.yaml keeps, and what a resumed run takes back from it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from mcl.run_files import CONFIG

M = TypeVar("M", bound=BaseModel)
WILD = re.compile(r"[*?\[{]")
ELSEWHERE = re.compile(r"pipe:|[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def saved_file(command: type[BaseModel], given: Mapping[str, Any]) -> Path | None:
    """The config.yaml of the run that ``--resume --out RUN`` asks for; None if it asks for none, or there is none."""
    if "resume" not in command.model_fields or str(given.get("resume", False)).lower() != "true" or not given.get("out"):
        return None
    file = Path(given["out"]) / CONFIG
    return file if file.is_file() else None


def with_absolute_paths(settings: M) -> M:
    """The settings as a run keeps them, for whoever goes on from another folder.

    Every ``Path`` is made absolute, and of the texts named in ``locations`` those that lead to something on this machine:
    a URL, a command or a network's name stays as it is.
    """
    changes: dict[str, Any] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            changes[name] = with_absolute_paths(value)
        elif isinstance(value, Path):
            changes[name] = Path(os.path.abspath(value))
        elif isinstance(value, str) and name in settings.locations and is_here(value):
            changes[name] = os.path.abspath(value)
    return settings.model_copy(update=changes)


def is_here(location: str) -> bool:
    """Whether a text names a file, a folder, or a pattern of files, on this machine."""
    if ELSEWHERE.match(location):
        return False
    wild = WILD.search(location)
    path = os.path.dirname(location[: wild.start()]) or "." if wild else location
    try:
        return os.path.exists(path)
    except ValueError:  # no path at all
        return False
