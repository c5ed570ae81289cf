"""Which cut-out files belong to which class: class folders, or a map of patterns."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

import yaml

from mcl.data.loading.decode import SUFFIXES
from mcl.errors import UserError, did_you_mean

SHIPPED_MAPS = {"stamps": "stamps.yaml"}


def choose_classes(
    cutouts: Path, class_map: str | None, include: Sequence[str], exclude: Sequence[str]
) -> dict[str, list[Path]]:
    """Image files by class.

    Args:
        cutouts: folder whose sub-folders are the classes, unless a map is given.
        class_map: YAML file or name of a shipped map (:func:`read_class_map`), or ``None``.
        include: patterns of class names to use.
        exclude: patterns of class names to leave out.

    Raises:
        UserError: nothing found, or no class left.
    """
    classes = _mapped(cutouts, class_map) if class_map else _class_folders(cutouts)
    for pattern in include:
        if not fnmatch.filter(classes, pattern):
            hint = did_you_mean(pattern, classes)
            raise UserError(f"--include: no class {pattern!r}{hint}; there are: {', '.join(sorted(classes))}")
    wanted = {
        name: paths
        for name, paths in classes.items()
        if _matches(name, include) and not _matches(name, exclude)
    }
    if not wanted:
        raise UserError(f"--exclude {','.join(exclude)}: leaves no class of {', '.join(sorted(classes))}")
    return wanted


def walk_images(folder: Path, flag: str) -> list[Path]:
    """Image files of a folder and below, sorted; hidden ones and linked folders are left out.

    Raises:
        UserError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise UserError(f"{flag} {folder}: no such folder")
    found = [
        Path(base, name)
        for base, _, names in os.walk(folder)
        for name in names
        if os.path.splitext(name)[1].lower() in SUFFIXES
        and not any(part.startswith(".") for part in Path(base, name).relative_to(folder).parts)
    ]
    if not found:
        raise UserError(f"{flag} {folder}: no image in this folder or below it")
    return sorted(found)


def _class_folders(folder: Path) -> dict[str, list[Path]]:
    paths = walk_images(folder, "--cutouts")
    classes: dict[str, list[Path]] = {}
    for path in paths:
        parts = path.relative_to(folder).parts
        if len(parts) > 1:
            classes.setdefault(parts[0], []).append(path)
    if not classes:
        raise UserError(
            f"--cutouts {folder}: no class folder; put cut-outs into one folder a class, e.g. {folder}/bird/"
        )
    return classes


def _mapped(folder: Path, class_map: str) -> dict[str, list[Path]]:
    """Each file goes to the first class that has a matching pattern."""
    patterns, exclude = read_class_map(class_map)
    classes: dict[str, list[Path]] = {name: [] for name in patterns}
    for path in walk_images(folder, "--cutouts"):
        relative = path.relative_to(folder).as_posix()
        if not _matches(relative, exclude):
            name = next((name for name, globs in patterns.items() if _matches(relative, globs)), None)
            if name is not None:
                classes[name].append(path)
    if not any(classes.values()):
        raise UserError(f"--class_map {class_map}: no pattern matches a file in --cutouts {folder}")
    return classes


def read_class_map(class_map: str) -> tuple[dict[str, list[str]], list[str]]:
    """Patterns by class and patterns to exclude, from a YAML file or a shipped map.

    Raises:
        UserError: no such file or map, or not ``{classes: {name: [pattern]}, exclude: [pattern]}``.
    """
    if class_map in SHIPPED_MAPS:
        text = (resources.files("mcl.sets") / SHIPPED_MAPS[class_map]).read_text("utf-8")
    else:
        try:
            text = Path(class_map).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            hint = did_you_mean(class_map, SHIPPED_MAPS)
            raise UserError(
                f"--class_map {class_map}: cannot be read as a YAML file: {error}{hint}"
            ) from None
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--class_map {class_map}: not valid YAML: {' '.join(str(error).split())}") from None
    classes, exclude = (
        (values.get("classes"), values.get("exclude", [])) if isinstance(values, dict) else (None, [])
    )
    lists = [*classes.values(), exclude] if isinstance(classes, dict) and classes else [None]
    if not all(isinstance(globs, list) and all(isinstance(glob, str) for glob in globs) for globs in lists):
        raise UserError(
            f"--class_map {class_map}: expected 'classes:' with 'name: [pattern, ...]' and maybe 'exclude:'"
        )
    return {str(name): globs for name, globs in classes.items()}, exclude


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
