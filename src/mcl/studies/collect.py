"""From a run folder that has ended to its line in the book."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from mcl.data.labels.coco_json import read_coco
from mcl.detect.saved import load_detector
from mcl.engine.run_folder import RunFolder
from mcl.nn.parts import PIECES
from mcl.nn.trunk import FILE_NAME, Trunk, save_trunk
from mcl.studies.jobs import Job
from mcl.studies.matches import Matches, resample_weights

METRICS = {"box_AP": ("bbox", False), "mask_AP": ("segm", False), "class_agnostic_AP": ("bbox", True)}
CURVE = "curve.jsonl"


def line_of(job: Job, resamples: int, folder: Path) -> dict[str, Any]:
    """A line for a job that has ended well; writes beside what later steps need of it (a trunk, resampled APs).

    Args:
        resamples: of the test images.
        folder: for the APs of resampled images.
    """
    if job.kind == "teacher":
        write_trunk(job.folder)
    if job.kind == "cell":
        write_resampled(job, resamples, folder)
    summary = job.summary
    keys = (*METRICS, "box_AP50", "mask_AP50", "test_images", "test_seconds", "train_images", "loaded_share", "images")
    result = {key: summary[key] for key in keys if key in summary}
    line = {"id": job.id, "kind": job.kind, **job.facts, "result": result, "cost": summary["cost"]}
    file = job.folder / CURVE
    if file.is_file():
        line["curve"] = [json.loads(one) for one in file.read_text("utf-8").splitlines()]
    return line


def failed_line(job: Job, reason: str) -> dict[str, Any]:
    """A line for a job whose settings were no good."""
    return {"id": job.id, "kind": job.kind, **job.facts, "failed": reason}


def write_trunk(folder: Path) -> None:
    """Backbone, pyramid and head convolutions of a fine-tuned detector, as a trunk file in its run folder."""
    if (folder / FILE_NAME).is_file():
        return
    detector, plan = load_detector(folder)
    trunk, state = Trunk(plan.spec), detector.state_dict()
    trunk.load_state_dict({name: state[name] for name in trunk.state_dict()})
    save_trunk(folder / FILE_NAME, trunk, {"method": "a detector's training", "trained": list(PIECES)})


def write_resampled(job: Job, resamples: int, folder: Path) -> None:
    """``ID.npz``: for each AP (resamples,) values, on test images drawn again; the same images for all cells."""
    target = folder / f"{job.id}.npz"
    if target.is_file() and read_resampled(target)["box_AP"].shape == (resamples,):
        return
    scenes = read_coco(job.settings.val, job.settings.val_images or job.settings.images, job.settings.max_missing)
    weights = resample_weights(len(scenes.scenes), resamples)
    found = {}
    for name, (kind, agnostic) in METRICS.items():
        file = job.folder / f"predictions.{kind}.json"
        if file.is_file():
            results = json.loads(file.read_text("utf-8"))
            found[name] = Matches.of(scenes, results, kind, agnostic).ap(weights)
    folder.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    with open(partial, "wb") as file:
        np.savez_compressed(file, **{name: values.astype(np.float32) for name, values in found.items()})
    os.replace(partial, target)


def read_resampled(file: Path) -> dict[str, np.ndarray]:
    """What ``write_resampled`` wrote."""
    with np.load(file, allow_pickle=False) as opened:
        return {name: opened[name] for name in opened.files}


def progress(job: Job) -> int:
    """Steps that a job under way has logged."""
    file = RunFolder(job.folder).metrics
    try:
        with open(file, "rb") as opened:
            opened.seek(max(0, file.stat().st_size - 4096))
            lines = opened.read().splitlines()
        return json.loads(lines[-1])["step"] if lines else 0
    except (OSError, ValueError, KeyError):
        return 0
