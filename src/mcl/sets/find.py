"""Find the sources of composed scenes: cut-outs to label, cut-outs for unlabeled images only, photos."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mcl.config.data import DataComposeSettings
from mcl.errors import UserError
from mcl.sets.classes import choose_classes, find_classes, other_classes, walk_images
from mcl.sets.cutouts import Source, cutout_at, photo_at
from mcl.sets.distinct import Findings, Thumbnails, distinct, without_mirrors
from mcl.sets.shrunk import Shrunk


@dataclass
class Found:
    """All cut-outs to label, by class, those for unlabeled images only, and all photos."""

    cutouts: dict[str, list[Source]]
    extra: dict[str, list[Source]]
    photos: list[Source]


def find_sources(
    settings: DataComposeSettings,
    sides: tuple[int, int],
    shrunk: Shrunk,
    run: Callable[..., Iterator[Any]],
    findings: Findings,
) -> Found:
    """Readable cut-outs and photos without duplicates.

    Args:
        settings: where to look, and for which classes.
        sides: of cut-outs and photos, as :func:`mcl.sets.compose.source_sides` gives them.
        shrunk: gets them at these sizes.
        run: a ``map``, maybe over worker processes.
        findings: gets what was left out.

    Raises:
        UserError: a folder is missing or empty, no class folder, no class left, no readable cut-out or photo.
    """
    everything = find_classes(
        settings.cutouts, settings.class_map, settings.class_depth, settings.follow_links
    )
    labelled = choose_classes(everything, settings.include, settings.exclude)
    others = other_classes(everything, labelled, settings.unlabeled_classes)
    photos = walk_images(settings.backgrounds, "--backgrounds", settings.follow_links)
    seen = Thumbnails()

    def usable(classes: dict[str, list[Path]], root: Path) -> dict[str, list[Source]]:
        read = partial(cutout_at, side=sides[0])
        return {
            name: distinct(without_mirrors(paths, findings), root, read, seen, shrunk, run, findings)
            for name, paths in sorted(classes.items())
        }

    # Labelled ones first: of copies the labelled one is kept.
    kept, extra = usable(labelled, settings.cutouts), usable(others, settings.cutouts)
    if settings.unlabeled_cutouts:
        folder = settings.unlabeled_cutouts
        more = walk_images(folder, "--unlabeled_cutouts", settings.follow_links)
        extra |= usable({str(folder): more}, folder)
    if not any(kept.values()):
        raise UserError(f"--cutouts {settings.cutouts}: no cut-out can be used; {_first_reason(findings)}")
    read = partial(photo_at, side=sides[1])
    distinct_photos = distinct(photos, settings.backgrounds, read, Thumbnails(), shrunk, run, findings)
    if not distinct_photos:
        raise UserError(
            f"--backgrounds {settings.backgrounds}: no photo can be used; {_first_reason(findings)}"
        )
    return Found(kept, extra, distinct_photos)


def _first_reason(findings: Findings) -> str:
    if not findings.skipped:
        return "there is none"
    path, reason = next(reversed(findings.skipped.items()))
    return f"the last of {len(findings.skipped)} skipped: {path}: {reason}"
