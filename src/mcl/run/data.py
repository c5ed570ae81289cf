"""``mcl data demo``, ``mcl data trees``, ``mcl data compose``: write a set to train on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mcl.config.data import (
    DataComposeSettings,
    DataDemoSettings,
    DataSettings,
    DataTreesSettings,
    SceneSettings,
)
from mcl.errors import UserError
from mcl.sets.cutouts import Findings, Sources, find_sources, split_sources
from mcl.sets.demo import demo_sources
from mcl.sets.folders import prepare_output, publish
from mcl.sets.generate import SPLIT, write_set
from mcl.sets.trees import deepforest_data, read_photos, write_trees


def data_demo(settings: DataDemoSettings) -> dict[str, Any]:
    """Write the embedded demo set; returns counts, paths and a ``message`` for people.

    Raises:
        UserError: scikit-image is missing, or the output folder cannot be used.
    """
    with _output(settings) as stage:
        train, test = demo_sources(settings)
        sets = write_set(stage, train, test, settings, "mcl data demo")
    return _summary(settings, sets, _unlabeled(settings), _shares(train, test))


def data_compose(settings: DataComposeSettings) -> dict[str, Any]:
    """Compose a set from cut-outs and photos; returns counts, paths and a ``message`` for people.

    Raises:
        UserError: sources that cannot be used, or an output folder that cannot.
    """
    for flag, folder in (("cutouts", settings.cutouts), ("backgrounds", settings.backgrounds)):
        if settings.out.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"--out {settings.out}: lies in --{flag} {folder}, so the next run would compose from it"
            )
    with _output(settings) as stage:
        findings = Findings()
        found = find_sources(
            settings.cutouts,
            settings.backgrounds,
            settings.class_map,
            settings.include,
            settings.exclude,
            findings,
        )
        rng = np.random.default_rng([settings.seed, SPLIT])
        train, test = split_sources(found, settings.test_fraction, rng, findings)
        sets = write_set(stage, train, test, settings, "mcl data compose")
        if findings.skipped:
            lines = [f"{path}\t{reason}\n" for path, reason in findings.skipped.items()]
            (stage / "skipped.txt").write_text("".join(lines), "utf-8", "surrogateescape")
    notes = [_shares(train, test), *findings.notes]
    if findings.skipped:
        notes.append(f"{len(findings.skipped)} files skipped, see {settings.out / 'skipped.txt'}")
    summary = _summary(settings, sets, _unlabeled(settings), *notes)
    return summary | {"skipped": len(findings.skipped), "notes": findings.notes}


def data_trees(settings: DataTreesSettings) -> dict[str, Any]:
    """Cut deepforest's packaged aerial photos into tiles; returns counts, paths and a ``message`` for people.

    Raises:
        UserError: the photos cannot be had or read, or the output folder cannot be used.
    """
    with _output(settings) as stage, deepforest_data(settings.package) as folder:
        written = write_trees(stage, read_photos(folder), settings)
    photos = "; ".join(f"{use}: {', '.join(names)}" for use, names in written["photos"].items())
    return _summary(settings, written["sets"], written["unlabeled"], f"photos: {photos}") | {
        "photos": written["photos"]
    }


@contextmanager
def _output(settings: DataSettings) -> Iterator[Path]:
    """Staging folder that becomes the output if nothing goes wrong."""
    stage = prepare_output(settings.out, settings.overwrite)
    try:
        yield stage
        publish(stage)
    except OSError as error:
        raise UserError(f"--out {settings.out}: writing failed: {error.strerror or error}") from None
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _unlabeled(settings: SceneSettings) -> int:
    return settings.unlabeled_objects + settings.unlabeled_scenes


def _shares(train: Sources, test: Sources) -> str:
    cutouts = [sum(map(len, split.cutouts.values())) for split in (train, test)]
    return (
        f"train shows {cutouts[0]} cut-outs on {len(train.photos)} photos, test {cutouts[1]} others "
        f"on {len(test.photos)} others"
    )


def _summary(settings: DataSettings, sets: dict[str, dict], unlabeled: int, *notes: str) -> dict[str, Any]:
    out = settings.out
    counts = {
        f"{split}_{kind}": len(sets[split][kind])
        for split in ("train", "test")
        for kind in ("images", "annotations")
    }
    classes = [category["name"] for category in sets["train"]["categories"]]
    message = "\n".join(
        [
            f"{out}: {unlabeled} unlabeled images; {counts['train_images']} train images with "
            f"{counts['train_annotations']} objects; {counts['test_images']} test images with "
            f"{counts['test_annotations']} objects; {len(classes)} classes: {', '.join(classes)}",
            *notes,
            f"Look at {out / 'preview.png'}, then:",
            f"  mcl pretrain --data {out / 'unlabeled'} --out runs/pretrain",
            f"  mcl finetune --trunk runs/pretrain --train {out / 'train.json'} --val {out / 'test.json'} "
            f"--images {out} --out runs/finetune",
        ]
    )
    paths = {name: str(out / name) for name in ("unlabeled", "train.json", "test.json", "preview.png")}
    return {
        "out": str(out),
        "unlabeled": unlabeled,
        **counts,
        "classes": classes,
        "paths": paths,
        "message": message,
    }
