"""``mcl data demo``, ``mcl data trees``, ``mcl data compose``: write a set to train on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mcl.config.data import (
    DataComposeSettings,
    DataDemoSettings,
    DataSettings,
    DataTreesSettings,
)
from mcl.errors import UserError, printable
from mcl.run.claim import require_inputs_kept
from mcl.sets.compose import source_sides
from mcl.sets.cutouts import Sources
from mcl.sets.demo import demo_sources
from mcl.sets.distinct import Findings
from mcl.sets.find import find_sources
from mcl.sets.folders import prepare_output, publish
from mcl.sets.generate import write_set
from mcl.sets.pool import mapper
from mcl.sets.shrunk import shrunk_pictures
from mcl.sets.splits import Splits, split_sources
from mcl.sets.trees import deepforest_data, read_photos, write_trees


def data_demo(settings: DataDemoSettings) -> dict[str, Any]:
    """Write the embedded demo set; returns counts, paths and a ``message`` for people.

    Raises:
        UserError: scikit-image is missing, or the output folder cannot be used.
    """
    with _output(settings) as stage:
        train, test = demo_sources(settings)
        splits = Splits(train, test, unlabeled=train)
        sets, unlabeled = write_set(stage, splits, settings, "mcl data demo")
    return _summary(settings, sets, unlabeled, _shares(splits))


def data_compose(settings: DataComposeSettings) -> dict[str, Any]:
    """Compose a set from cut-outs and photos; returns counts, paths and a ``message`` for people.

    Raises:
        UserError: sources that cannot be used, or an output folder that cannot.
    """
    folders = {"cutouts": settings.cutouts, "backgrounds": settings.backgrounds}
    if settings.unlabeled_cutouts:
        folders["unlabeled_cutouts"] = settings.unlabeled_cutouts
    for flag, folder in folders.items():
        if settings.out.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"--out {settings.out}: lies in --{flag} {folder}, so the next run would compose from it"
            )
    findings = Findings()
    with _output(settings) as stage, shrunk_pictures(stage / "shrunk", settings.workers) as shrunk:
        with mapper(settings.workers) as run:
            found = find_sources(settings, source_sides(settings), shrunk, run, findings)
        splits = split_sources(found, settings, findings)
        sets, unlabeled = write_set(stage, splits, settings, "mcl data compose")
        if findings.skipped:
            lines = [f"{path}\t{reason}\n" for path, reason in findings.skipped.items()]
            (stage / "skipped.txt").write_text("".join(lines), "utf-8", "surrogateescape")
    notes = [_shares(splits), *findings.notes]
    if findings.skipped:
        notes.append(f"{len(findings.skipped)} files skipped, see {settings.out / 'skipped.txt'}")
    summary = _summary(settings, sets, unlabeled, *notes)
    return summary | {"skipped": len(findings.skipped), "notes": findings.notes}


def data_trees(settings: DataTreesSettings) -> dict[str, Any]:
    """Cut deepforest's packaged aerial photos into tiles; returns counts, paths and a ``message`` for people.

    Raises:
        UserError: the photos cannot be had or read, or the output folder cannot be used.
    """
    with _output(settings) as stage, deepforest_data(settings.package) as folder:
        written = write_trees(stage, read_photos(folder), settings)
    photos = "; ".join(f"{use}: {', '.join(map(printable, names))}" for use, names in written["photos"].items())
    return _summary(settings, written["sets"], written["unlabeled"], f"photos: {photos}") | {
        "photos": written["photos"]
    }


@contextmanager
def _output(settings: DataSettings) -> Iterator[Path]:
    """Staging folder that becomes the output if nothing goes wrong."""
    require_inputs_kept(settings)
    stage = prepare_output(settings.out, settings.overwrite)
    try:
        yield stage
        publish(stage)
    except OSError as error:
        raise UserError(f"--out {settings.out}: writing failed: {error.strerror or error}") from None
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _shares(splits: Splits) -> str:
    train, unlabeled = splits.train, splits.unlabeled
    text = f"train shows {_count(train)} cut-outs on {len(train.photos)} photos"
    if _count(unlabeled) > _count(train):
        text += f", unlabeled images {_count(unlabeled)} (with those of train) on the same"
    for name, split in (("val", splits.val), ("test", splits.test)):
        if split:
            text += f", {name} {_count(split)} others on {len(split.photos)} others"
    return text


def _count(sources: Sources) -> int:
    return sum(map(len, sources.cutouts.values()))


def _summary(settings: DataSettings, sets: dict[str, dict], unlabeled: int, *notes: str) -> dict[str, Any]:
    out = settings.out
    splits = [split for split in ("train", "val", "test") if split in sets]
    counts = {
        f"{split}_{kind}": len(sets[split][kind]) for split in splits for kind in ("images", "annotations")
    }
    labelled = "; ".join(
        f"{counts[f'{split}_images']} {split} images with {counts[f'{split}_annotations']} objects"
        for split in splits
    )
    classes = [category["name"] for category in sets["train"]["categories"]]
    tune = [f"  (tune on {out / 'val.json'}, never on the test)"] if "val" in sets else []
    message = "\n".join(
        [
            f"{out}: {unlabeled} unlabeled images; {labelled}; {len(classes)} classes: {', '.join(map(printable, classes))}",
            *notes,
            f"Look at {out / 'preview.png'}, then:",
            f"  mcl pretrain --data {out / 'unlabeled'} --out runs/pretrain",
            f"  mcl finetune --trunk runs/pretrain --train {out / 'train.json'} --val {out / 'test.json'} "
            f"--images {out} --out runs/finetune",
            *tune,
        ]
    )
    paths = {name: str(out / name) for name in ("unlabeled", *(f"{s}.json" for s in splits), "preview.png")}
    return {
        "out": str(out),
        "unlabeled": unlabeled,
        **counts,
        "classes": classes,
        "paths": paths,
        "message": message,
    }
