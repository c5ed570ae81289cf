"""Where unlabeled images come from: a folder, a text list, or the images of a COCO JSON."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from mcl.data.decode import SUFFIXES, UnreadableImage, read_image
from mcl.data.random import STREAM_CHECK, generator_for
from mcl.errors import UserError


def find_images(source: Path, root: Path | None = None) -> list[Path]:
    """Image paths of a source, sorted, without duplicates.

    Args:
        source: a folder (searched recursively; symbolic links are followed once, so loops end), a ``.txt``
            list of paths (one a line, relative to ``root`` or to the list), or a COCO ``.json`` (images only).
        root: folder that relative names of a list or JSON start from; default: the file's own folder.

    Raises:
        UserError: nothing there, of an unknown kind, or without images.
    """
    if not source.exists():
        raise UserError(f"--data {source}: no such file or folder{_hint_missing(source)}")
    if source.is_dir():
        paths = list(_walk(source))
        kinds = ", ".join(sorted(SUFFIXES))
        if not paths:
            raise UserError(f"--data {source}: no image in this folder or below it (looked for {kinds})")
        return paths
    root = root or source.parent
    if source.suffix == ".json":
        return _from_coco(source, root)
    if source.suffix in (".txt", ".lst", ".list"):
        return _from_list(source, root)
    raise UserError(f"--data {source}: give a folder, a .txt list of paths or a COCO .json")


def check_readable(paths: list[Path], max_share: float, seed: int, sample: int = 64) -> dict[Path, str]:
    """Decode a random sample before anything starts, so that a wrong folder is seen at once.

    Returns:
        The unreadable files of the sample with their reasons.

    Raises:
        UserError: no file of the sample can be read, or more than ``max_share`` of it cannot.
    """
    import torch

    order = torch.randperm(len(paths), generator=generator_for(STREAM_CHECK, seed)).tolist()[:sample]
    unreadable: dict[Path, str] = {}
    for index in order:
        try:
            read_image(paths[index], at_least=(64, 64))
        except UnreadableImage as error:
            unreadable[paths[index]] = str(error)
    if unreadable:
        first, reason = next(iter(unreadable.items()))
        if len(unreadable) == len(order):
            raise UserError(
                f"--data: none of {len(order)} images tried can be read; the first: {first}: {reason}"
            )
        # One bad file in a sample of 64 is 1.6 %: below this many the sample says nothing about the share.
        if len(unreadable) > max(1, max_share * len(order)):
            raise UserError(
                f"--data: {len(unreadable)} of {len(order)} images tried cannot be read, more than "
                f"{max_share:.0%} (data.max_unreadable); the first: {first}: {reason}"
            )
    return unreadable


def fingerprint(paths: list[Path]) -> str:
    """A short hash of the images' names and sizes, to tell data sets apart in metadata."""
    digest = hashlib.blake2b(digest_size=8)
    common = os.path.commonpath(paths) if len(paths) > 1 else paths[0].parent
    for path in paths:
        size = path.stat().st_size if path.exists() else -1
        digest.update(f"{os.path.relpath(path, common)}\0{size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _walk(folder: Path) -> Iterator[Path]:
    seen: set[tuple[int, int]] = set()
    for base, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(base)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith("."):
                yield Path(base, name)


def _from_list(source: Path, root: Path) -> list[Path]:
    try:
        lines = source.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--data {source}: cannot be read as UTF-8 text: {error}") from None
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return _existing(source, [root / name for name in dict.fromkeys(names)])


def _from_coco(source: Path, root: Path) -> list[Path]:
    try:
        images = json.loads(source.read_text("utf-8"))["images"]
        names = [image["file_name"] for image in images]
    except (OSError, ValueError) as error:
        raise UserError(f"--data {source}: not valid JSON: {error}") from None
    except (KeyError, TypeError):
        raise UserError(
            f"--data {source}: no 'images' list with 'file_name' in it; is it a COCO JSON?"
        ) from None
    resolved = root.resolve()
    for name in names:
        if not isinstance(name, str) or not (root / name).resolve().is_relative_to(resolved):
            raise UserError(f"--data {source}: file_name {name!r} leads out of the image folder {root}")
    return _existing(source, [root / name for name in dict.fromkeys(names)])


def _existing(source: Path, paths: list[Path]) -> list[Path]:
    if not paths:
        raise UserError(f"--data {source}: names no image")
    found = [path for path in paths if path.is_file()]
    if not found:
        raise UserError(
            f"--data {source}: none of its {len(paths)} images exists; the first looked for is {paths[0]} "
            "(give the folder that names start from with --data_root)"
        )
    # Missing ones stay in: they are skipped, counted and listed like other unreadable images.
    return paths


def _hint_missing(path: Path) -> str:
    parent = path.parent
    if not parent.is_dir():
        return f" (nor {parent})"
    from mcl.errors import did_you_mean

    return did_you_mean(path.name, (entry.name for entry in parent.iterdir()))
