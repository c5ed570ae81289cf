"""A run is only continued with the settings it was started with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from mcl.config.base import Command, dump
from mcl.engine.run_folder import CONFIG, RunFolder
from mcl.errors import UserError


def require_same_settings(folder: RunFolder, settings: Command, free: Iterable[str]) -> None:
    """Compare with the run's saved ``config.yaml``; the settings named in ``free`` may differ.

    Raises:
        UserError: naming the first setting that differs.
    """
    saved = _flat(yaml.safe_load((folder.path / CONFIG).read_text("utf-8")))
    now = _flat(yaml.safe_load(dump(settings)))
    for key in sorted(set(saved) | set(now)):
        if key.partition(".")[0] not in set(free) and saved.get(key) != now.get(key):
            raise UserError(
                f"--resume: --{key} was {saved.get(key)!r}, now {now.get(key)!r}; "
                f"give the same settings, e.g. --config {folder.path / CONFIG}"
            )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
