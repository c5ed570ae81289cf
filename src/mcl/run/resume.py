"""A run is continued with the settings it was started with, or with changes that the user has allowed."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from typing import Any

import yaml
from pydantic import BaseModel

from mcl.config.base import Command, dump
from mcl.config.saved import with_absolute_paths
from mcl.engine.checkpoint import load_checkpoint
from mcl.engine.logging import console
from mcl.engine.run_folder import CONFIG, RunFolder
from mcl.errors import UserError

Differences = list[tuple[str, Any, Any]]  # (setting, then, now)
NOT_SET = "not set"
SUMMARY = "summary.json"


def start_or_resume(
    folder: RunFolder, settings: Command, free: Collection[str], kind: str, images: int
) -> int:
    """Write a new run's config.yaml; or compare a resumed run's settings and images with those of its checkpoint.

    Paths are kept absolute. With ``allow_changed`` the changes are told, config.yaml is replaced, and the old one stays beside it as
    ``config.until-step-N.yaml``.

    Args:
        settings: has ``resume`` and ``allow_changed``.
        free: settings and sections that may differ between the parts of a run.
        kind: what the loop calls this command; a checkpoint of another one is refused.
        images: found now; another number changes the order of all that come.

    Returns:
        The step of the checkpoint, 0 for a new run; -1 with ``allow_changed`` where something has changed.

    Raises:
        UserError: with every setting that differs, and the number of images; or the checkpoint is damaged or another command's.
    """
    if not settings.resume:
        folder.write_text(CONFIG, saved_text(settings))
        return 0
    content = load_checkpoint(folder.checkpoint, tensors=False)
    if content.get("kind", kind) != kind:
        raise UserError(f"checkpoint {folder.checkpoint}: made by {content['kind']}, not by {kind}")
    # The checkpoint knows best what it was trained with; config.yaml may have been edited, or be another run's.
    then = content.get("config") or folder.config
    if then is None:
        raise UserError(
            f"--resume: {folder.path / CONFIG} is missing, and the checkpoint does not hold it either"
        )
    changes = differences(then, settings, free)
    other_images = _other_images(content.get("images", images), images)
    if not settings.allow_changed:
        _refuse(folder, then, changes, other_images)
    if changes or other_images:
        told = [f"changed from step {content['step']} on:", *_lines(changes), *other_images]
        console.print("\n".join(told), markup=False)
    if changes:
        folder.write_text(f"config.until-step-{content['step']}.yaml", then)
        folder.write_text(CONFIG, saved_text(settings))
    elif folder.config != then:  # changes that were tried and never reached a checkpoint
        folder.write_text(CONFIG, then)
    return -1 if changes or other_images else content["step"]


def summary_of_ended(folder: RunFolder, started: int, total: int, result: str) -> dict[str, Any] | None:
    """The summary of a run that was resumed though it had ended well, or None.

    Args:
        started: what ``start_or_resume`` gave.
        total: steps of the run.
        result: name of the file that it ended with.
    """
    summary = folder.path / SUMMARY
    if started != total or not summary.is_file() or not (folder.path / result).is_file():
        return None
    console.print(f"nothing to do: {folder.path} has ended well; its result is {folder.path / result}")
    return json.loads(summary.read_text("utf-8"))


def saved_text(settings: Command) -> str:
    """What config.yaml holds."""
    return dump(with_absolute_paths(settings))


def _refuse(folder: RunFolder, then: str, changes: Differences, other_images: list[str]) -> None:
    """Raise ``UserError`` if a run would go on with something else than it began with."""
    told, advice = [], []
    if changes:
        source = folder.path / CONFIG
        same = f" (--config {source} has them)" if folder.config == then else ""
        told = [f"{len(changes)} setting(s) differ from those of {folder.checkpoint}:", *_lines(changes)]
        advice.append(f"settings{same}")
    if other_images:
        told += [] if changes else [f"the images are not those of {folder.checkpoint}:"]
        told += other_images
        advice.append("images")
    if told:
        last = f"give the same {' and '.join(advice)}, or --allow_changed to go on with the new ones"
        raise UserError("\n".join([f"--resume: {told[0]}", *told[1:], last]))


def _other_images(then: int, now: int) -> list[str]:
    """A line if there are more or fewer than there were."""
    if then == now:
        return []
    return [f"  {then:,} images then, {now:,} now ({abs(now - then):,} {'more' if now > then else 'fewer'})"]


def require_same_settings(folder: RunFolder, settings: Command, free: Collection[str]) -> None:
    """Compare with the folder's config.yaml.

    Raises:
        UserError: with every setting that differs.
    """
    if changes := differences(folder.config or "", settings, free):
        raise UserError(
            "\n".join([
                f"--out {folder.path}: made with other settings:", *_lines(changes),
                f"give the same settings, e.g. --config {folder.path / CONFIG}, or another --out",
            ])
        )  # fmt: skip


def differences(then: str, settings: Command, free: Collection[str]) -> Differences:
    """Settings that differ from those of a config.yaml's text, in the order of their names."""
    try:
        saved = _flat(yaml.safe_load(then) or {})
    except (yaml.YAMLError, AttributeError):
        raise UserError(f"--resume: {CONFIG} is damaged, so that settings cannot be compared") from None
    now = _flat(yaml.safe_load(saved_text(settings)))
    return [
        (key, saved.get(key, NOT_SET), now.get(key, NOT_SET))
        for key in sorted(set(saved) | set(now))
        if key.partition(".")[0] not in free
        and not _same(saved.get(key, NOT_SET), now.get(key, NOT_SET))
        and not (key not in saved and is_default(settings, key))
    ]


def is_default(settings: BaseModel, key: str) -> bool:
    """Whether a setting has its default; one that an older version did not know yet then is as it was."""
    name, _, rest = key.partition(".")
    if name not in type(settings).model_fields:
        return False
    value = getattr(settings, name)
    if rest and isinstance(value, BaseModel):
        return is_default(value, rest)
    return value == type(settings).model_fields[name].get_default(call_default_factory=True)


def _same(then: Any, now: Any) -> bool:
    # Versions before this one kept paths as they were given.
    return then == now or (isinstance(then, str) and os.path.isabs(str(now)) and os.path.abspath(then) == now)


def _lines(changes: Differences) -> list[str]:
    return [f"  --{key} was {then!r}, now {now!r}" for key, then, now in changes]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
