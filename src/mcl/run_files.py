"""What makes a folder a run's: the engine writes these files, and data must not take the pictures beside them for images."""

from __future__ import annotations

from collections.abc import Collection

CONFIG, LOCK, CHECKPOINTS = "config.yaml", ".lock", "checkpoints"


def is_run_folder(names: Collection[str]) -> bool:
    """Whether a folder with these entries is one that a command of ours runs or ran in."""
    return {CONFIG, LOCK, CHECKPOINTS} <= set(names)
