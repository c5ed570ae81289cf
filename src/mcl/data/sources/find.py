"""Where unlabeled images come from: a folder, a text list, a COCO JSON, tar shards, or tables of images."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mcl.data.loading.decode import UnreadableImage, read_image
from mcl.data.sources.hugging_face import is_saved_dataset, open_parquet, open_saved
from mcl.data.sources.index import LARGE, list_folder
from mcl.data.sources.packed import ImagePaths, PackedStrings
from mcl.data.sources.pictures import SUFFIXES, Picture, Pictures, file_size, leads_out
from mcl.data.sources.remote import fetch_shards, is_remote
from mcl.data.sources.shards import list_shards
from mcl.data.sources.store import cache_folder
from mcl.errors import UserError, did_you_mean, printable

WILD = "*?[{"


def find_images(
    source: Path | str,
    root: Path | None = None,
    cache: Path | None = None,
    column: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Sequence[Picture]:
    """The pictures of a source: the same sequence in every process, without duplicates.

    Args:
        source: a folder (searched recursively; symbolic links are followed once, so loops end), a ``.txt``
            list of paths (one a line, relative to ``root`` or to the list), a COCO ``.json`` (images only),
            ``.tar`` shards or ``.parquet`` files (one, a folder of them, or a pattern: ``shards/{000..009}.tar``,
            ``shards/*.tar``), shards from a URL or ``pipe:COMMAND``, or a folder saved by Hugging Face ``datasets``.
        root: folder that relative names of a list or JSON start from; default: the file's own folder.
        cache: where indexes, fetched shards and converted tables are kept; default: see ``cache_folder``.
        column: the column of images in a table; default: the only one.
        say: told what a user should know, a line at a time.

    Returns:
        A list of paths, or a ``Pictures`` that makes its items when asked.

    Raises:
        UserError: nothing there, of an unknown kind, damaged, or without images.
    """
    cache = cache_folder(cache)
    if is_remote(str(source)):
        return list_shards(fetch_shards(_braces(str(source)), cache, say), cache, say)
    source = Path(source)
    if not os.path.exists(source):  # not Path.exists: it raises for names that are too long
        if any(character in str(source) for character in WILD):
            return _from_files(str(source), _expand(str(source)), cache, column, say)
        raise UserError(f"{source}: {_why_missing(source)}")
    if os.path.isdir(source):
        return _from_folder(source, cache, column, say)
    base = root or source.parent
    if source.suffix == ".json":
        return _from_coco(source, base)
    if source.suffix in (".txt", ".lst", ".list"):
        return _from_list(source, base, inside=root is not None)
    return _from_files(str(source), [str(source)], cache, column, say)


def check_readable(
    paths: Sequence[Picture], max_share: float, seed: int, sample: int = 64, max_pixels: int | None = None
) -> dict[Picture, str]:
    """Decode a random sample before anything starts, so that a wrong folder is seen at once.

    Returns:
        The unreadable files of the sample with their reasons.

    Raises:
        UserError: no file of the sample can be read, or more than ``max_share`` of it cannot.
    """
    import torch  # here: listing needs none of it

    from mcl.randomness import STREAM_CHECK, generator_for

    order = torch.randperm(len(paths), generator=generator_for(STREAM_CHECK, seed))[:sample].tolist()
    unreadable: dict[Picture, str] = {}
    for index in order:
        try:
            read_image(paths[index], at_least=(64, 64), max_pixels=max_pixels)
        except UnreadableImage as error:
            unreadable[paths[index]] = str(error)
    if unreadable:
        first, reason = next((printable(str(picture)), why) for picture, why in unreadable.items())
        if len(unreadable) == len(order):
            raise UserError(
                f"none of {len(order)} images tried can be read; the first: {first}: {reason}"
            )
        # One bad file in a sample of 64 is 1.6 %: below this many the sample says nothing about the share.
        if len(unreadable) > max(1, max_share * len(order)):
            raise UserError(
                f"{len(unreadable)} of {len(order)} images tried cannot be read, more than "
                f"{max_share:.0%} (--max_unreadable); the first: {first}: {reason}"
            )
    return unreadable


def fingerprint(paths: Sequence[Picture]) -> str:
    """A short hash of the images' names and sizes, to tell data sets apart in metadata.

    Names count from the folder that all have in common, so that a set may lie anywhere.
    """
    digest = hashlib.blake2b(digest_size=8)
    common = _common_folder(_names(paths)) if len(paths) > 1 else os.path.dirname(next(_names(paths)))
    start = len(os.path.join(common, "")) if common else 0
    sizes = paths.sizes() if isinstance(paths, Pictures) else map(file_size, paths)
    for name, size in zip(_names(paths), sizes, strict=True):
        digest.update(f"{name[start:]}\0{size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _names(paths: Sequence[Picture]) -> Iterator[str]:
    return paths.names() if isinstance(paths, Pictures) else map(str, paths)


def _common_folder(names: Iterator[str]) -> str:
    """``os.path.commonpath``, a name at a time."""
    common = os.path.dirname(next(names))
    prefix = os.path.join(common, "") if common else ""
    for name in names:
        if not name.startswith(prefix):
            both = [common, os.path.dirname(name)]
            # A list may name absolute paths beside relative ones: they have no folder in common.
            common = os.path.commonpath(both) if os.path.isabs(both[0]) == os.path.isabs(both[1]) else ""
            prefix = os.path.join(common, "") if common else ""
    return common


def _from_folder(
    source: Path, cache: Path, column: str | None, say: Callable[[str], None]
) -> Sequence[Picture]:
    if is_saved_dataset(source):
        return open_saved(source, column)
    paths = list_folder(source, cache, say)
    files = [] if len(paths) else sorted(str(p) for s in FILES for p in source.rglob(f"*{s}") if os.path.isfile(p))
    if files:
        return _from_files(str(source), files, cache, column, say)
    if not len(paths):
        raise UserError(
            f"{source}: no image in this folder or below it (looked for {', '.join(sorted(SUFFIXES))}, "
            f"and {' and '.join(FILES)})"
        )
    return paths


FILES = (".tar", ".parquet")


def _from_files(
    source: str, files: list[str], cache: Path, column: str | None, say: Callable[[str], None]
) -> Pictures:
    """Shards or tables."""
    kinds = {os.path.splitext(file)[1] for file in files}
    if kinds == {".tar"}:
        return list_shards(files, cache, say)
    if kinds == {".parquet"}:
        return open_parquet(files, column, cache)
    if any(file.endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")) for file in files):
        raise UserError(f"{source}: compressed shards; unpack them to plain .tar (pictures are read by seek)")
    raise UserError(
        f"{source}: give a folder, a .txt list of paths, a COCO .json, .tar shards or .parquet files"
        + (f" (not {' and '.join(sorted(kinds))} at once)" if len(kinds) > 1 else "")
    )


def _expand(pattern: str) -> list[str]:
    """Files that a pattern names, sorted where ``*`` leaves the order open."""
    files: list[str] = []
    for name in _braces(pattern):
        found = sorted(glob.glob(name, recursive=True)) if any(c in name for c in "*?[") else [name]
        if not found or not os.path.isfile(found[0]):
            raise UserError(f"{pattern}: no file {name}")
        files += found
    return list(dict.fromkeys(files))


def _braces(pattern: str) -> list[str]:
    if "{" not in pattern:
        return [pattern]
    try:
        from braceexpand import UnbalancedBracesError, braceexpand
    except ImportError:
        raise UserError(
            f"{pattern}: braces need braceexpand: pip install 'mcl[shards]' (or give the folder, or use *)"
        ) from None
    try:
        return list(braceexpand(pattern))
    except UnbalancedBracesError as error:
        raise UserError(f"{pattern}: {error}") from None


def _from_list(source: Path, root: Path, inside: bool) -> Sequence[Picture]:
    """A list is its user's own and may name any file, unless it is told where names start (``inside``)."""
    try:
        lines = source.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: cannot be read as UTF-8 text: {error}") from None
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if inside and (outside := next(filter(leads_out, names), None)):
        raise UserError(f"{source}: {printable(outside)} leads out of --data_root {root}")
    return _existing(source, root, names)


def _from_coco(source: Path, root: Path) -> Sequence[Picture]:
    try:
        images = json.loads(source.read_text("utf-8"))["images"]
        names = [image["file_name"] for image in images]
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{source}: not valid JSON: {' '.join(str(error).split())}") from None
    except (KeyError, TypeError):
        raise UserError(
            f"{source}: no 'images' list with 'file_name' in it; is it a COCO JSON?"
        ) from None
    for name in names:
        if not isinstance(name, str) or not name or "\0" in name or _not_text(name):
            raise UserError(f"{source}: file_name {name!r} is no file's name")
        if leads_out(name):
            raise UserError(f"{source}: file_name {name!r} leads out of the image folder {root}")
    return _existing(source, root, names)


def _not_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can hold
        return True
    return False


def _existing(source: Path, root: Path, names: list[str]) -> Sequence[Picture]:
    names = list(dict.fromkeys(names))
    if not names:
        raise UserError(f"{source}: names no image")
    if not any(os.path.isfile(root / name) for name in names):
        raise UserError(
            f"{source}: none of its {len(names)} images exists; the first looked for is {root / names[0]} "
            "(give the folder that names start from as --data_root)"
        )
    # Missing ones stay in: they are skipped, counted and listed like other unreadable images.
    if len(names) > LARGE:
        return ImagePaths(root, PackedStrings.of(str(Path(name)) for name in names))
    return [root / name for name in names]


def _why_missing(path: Path) -> str:
    """What there is to say of a path that does not exist, or that nobody may look at."""
    try:
        os.stat(path)
    except PermissionError as error:
        return f"cannot be read: {error.strerror}"
    except OSError:
        pass
    missing, parent = "no such file or folder", path.parent
    if not os.path.isdir(parent):
        return f"{missing} (nor {parent})"
    try:
        return missing + did_you_mean(path.name, os.listdir(parent))
    except OSError:
        return missing
