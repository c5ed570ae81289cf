"""Which cut-out files belong to which class: class folders, or a map of patterns."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path

import yaml

from mcl.data.loading.decode import SUFFIXES
from mcl.errors import UserError, did_you_mean

SHIPPED_MAPS = {"stamps": "stamps.yaml"}


def find_classes(
    cutouts: Path, class_map: str | None = None, depth: int = 1, follow_links: bool = False
) -> dict[str, list[Path]]:
    """Image files by class, of all classes there are.

    Args:
        cutouts: folder whose sub-folders are the classes, unless a map is given.
        class_map: YAML file or name of a shipped map (:func:`read_class_map`), or ``None``.
        depth: levels of folders that name a class (``animals/birds`` for 2); a file that lies less deep belongs to
            the class of its folder.
        follow_links: search folders that are symbolic links too.

    Raises:
        UserError: nothing found.
    """
    paths = walk_images(cutouts, "--cutouts", follow_links)
    return _mapped(cutouts, paths, class_map) if class_map else _class_folders(cutouts, paths, depth)


def choose_classes(
    classes: Mapping[str, list[Path]], include: Sequence[str], exclude: Sequence[str]
) -> dict[str, list[Path]]:
    """The classes to label: those that match a pattern of ``include`` and none of ``exclude``.

    Raises:
        UserError: a pattern of ``include`` matches nothing, or no class is left.
    """
    _require_matches(classes, include, "--include")
    wanted = {
        name: paths
        for name, paths in classes.items()
        if _matches(name, include) and not _matches(name, exclude)
    }
    if not wanted:
        raise UserError(f"--exclude {','.join(exclude)}: leaves no class of {', '.join(sorted(classes))}")
    return wanted


def other_classes(
    classes: Mapping[str, list[Path]], labelled: Iterable[str], patterns: Sequence[str]
) -> dict[str, list[Path]]:
    """The classes beside the labelled ones that match a pattern.

    Raises:
        UserError: a pattern matches no such class.
    """
    left = {name: paths for name, paths in classes.items() if name not in set(labelled)}
    _require_matches(left, patterns, "--unlabeled_classes")
    return {name: paths for name, paths in left.items() if _matches(name, patterns)}


def walk_images(folder: Path, flag: str, follow_links: bool = False) -> list[Path]:
    """Image files of a folder and below, sorted; hidden ones are left out, and linked folders unless asked for.

    Of a folder that is reached in several ways (links, also in a circle) the files are listed once.

    Raises:
        UserError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise UserError(f"{flag} {folder}: no such folder")
    found, seen = [], set()
    for base, folders, names in os.walk(folder, followlinks=follow_links):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if follow_links:
            here = os.path.realpath(base)
            if here in seen:
                folders.clear()
                continue
            seen.add(here)
        found += [
            Path(base, name)
            for name in names
            if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")
        ]
    if not found:
        raise UserError(f"{flag} {folder}: no image in this folder or below it")
    return sorted(found)


def _class_folders(folder: Path, paths: Iterable[Path], depth: int) -> dict[str, list[Path]]:
    classes: dict[str, list[Path]] = {}
    for path in paths:
        parents = path.relative_to(folder).parts[:-1]
        if parents:
            classes.setdefault("/".join(parents[:depth]), []).append(path)
    if not classes:
        raise UserError(
            f"--cutouts {folder}: no class folder; put cut-outs into one folder a class, e.g. {folder}/bird/"
        )
    return classes


def _mapped(folder: Path, paths: Iterable[Path], class_map: str) -> dict[str, list[Path]]:
    """Each file goes to the first class that has a matching pattern."""
    patterns, exclude = read_class_map(class_map)
    classes: dict[str, list[Path]] = {name: [] for name in patterns}
    for path in paths:
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


def _require_matches(classes: Mapping[str, list[Path]], patterns: Iterable[str], flag: str) -> None:
    for pattern in patterns:
        if not fnmatch.filter(classes, pattern):
            hint = did_you_mean(pattern, classes)
            there = f"there are: {', '.join(sorted(classes))}" if classes else "there is none"
            raise UserError(f"{flag}: no class {pattern!r}{hint}; {there}")


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
