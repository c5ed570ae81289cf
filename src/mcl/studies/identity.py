"""What a training's result depends on, as a short hash: the same work is found again, other work is not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mcl.config.base import Command, dump
from mcl.data.sources.find import find_images, fingerprint

#: sections and settings that move or pace a run and leave its result alone
NO_MATTER = ("out", "recipe", "watch", "data_cache", "max_missing", "max_unreadable", "test_batch", "feature_cache_gb")
LOOP_MATTERS = ("precision", "channels_last", "sync_bn", "matrix_gradients")


def digest(content: Any) -> str:
    """Twelve hexadecimal digits of plain types."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def what_matters(settings: Command, replaced: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that a result depends on.

    Args:
        replaced: what stands for settings that are paths: the content there; or None to leave one out.
    """
    values = yaml.safe_load(dump(settings))
    kept = {key: value for key, value in values.items() if key not in NO_MATTER}
    kept["loop"] = {key: values["loop"][key] for key in LOOP_MATTERS if key in values["loop"]}
    return {**kept, **replaced}


@cache
def file_identity(path: Path) -> str:
    """Of a file's bytes; a file that is not there (yet) is told by its name."""
    if not path.is_file():
        return f"missing {path}"
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16] if hasattr(hashlib, "file_digest") else _hashed(file)


def _hashed(file) -> str:  # Python 3.10
    whole = hashlib.sha256()
    while block := file.read(1 << 20):
        whole.update(block)
    return whole.hexdigest()[:16]


@cache
def images_identity(path: Path) -> str:
    """Of an image source's names and sizes."""
    if not path.exists():
        return f"missing {path}"
    return fingerprint(find_images(path))


def trunk_identity(trunk: str) -> str:
    """Of a trunk that is handed in: a run folder, a file, or a name that is no path."""
    path = Path(trunk)
    if path.is_dir():
        files = [path / name for name in ("trunk.safetensors", "model.safetensors", "config.json")]
        return digest([file_identity(file) for file in files if file.is_file()] or f"missing {path}")
    return file_identity(path) if path.is_file() else trunk
