"""``mcl demo``: the whole path on the embedded data set, and both APs side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from mcl.config.base import dump, from_values
from mcl.config.data import DataDemoSettings
from mcl.config.demo import DemoSettings
from mcl.config.pretrain import PretrainSettings
from mcl.engine.logging import console, duration
from mcl.engine.run_folder import CONFIG, RunFolder
from mcl.errors import UserError
from mcl.run.data import data_demo
from mcl.run.evaluate import percent
from mcl.run.pretrain import pretrain
from mcl.run.resume import require_same_settings
from mcl.run.see import tell_report
from mcl.run.side_by_side import run_side_by_side

# Whole images are read from P4, tiles from P3 and P2: nearer to where the detector reads its boxes from.
FINER = {"model": {"finer": 1}, "method": {"scales": [1, 2, 4]}}


def demo(settings: DemoSettings) -> dict[str, Any]:
    """Make the data, pre-train, fine-tune twice with the same schedule, print a table.

    What an earlier call in the same folder finished is kept, what it left half-way is resumed.

    Returns:
        ``{"pretrain": ..., "pretrained": ..., "scratch": ...}``, the three summaries.
    """
    out = settings.out
    _same_demo(settings)
    data, runs = out / "data", {name: out / name for name in ("pretrain", "pretrained", "scratch")}
    _stage("1/3 data set", data / "train.json", lambda: data_demo(_data(settings, data)))
    values = {
        "data": data / "unlabeled", "out": runs["pretrain"], "recipe": "mcl-tiny-128", "seed": settings.seed,
        "image_size": settings.image_size, "schedule": {"steps": settings.pretrain_steps}, **FINER,
        "loop": {"threads": settings.threads}, **_continued(runs["pretrain"]),
    }  # fmt: skip
    finished = runs["pretrain"] / "summary.json"
    _stage("2/3 pre-training", finished, lambda: pretrain(from_values(PretrainSettings, values)))
    summaries = {"pretrain": json.loads(finished.read_text("utf-8"))}
    summaries |= _finetune_both(settings, data, runs)
    _print_table(summaries, out)
    return summaries


def _data(settings: DemoSettings, out: Path) -> DataDemoSettings:
    # Few, large and clearly seen objects: minutes of training from scratch must get somewhere to be compared with.
    # What hides an outline (other objects, the border) leaves nothing else to tell its class by.
    easy = {
        "classes": 4, "max_objects": 3, "min_size": 0.3, "max_size": 0.75, "texture_blend": 0.35, "min_contrast": 80,
        "min_visible": 0.75, "overhang": 0.0, "cutouts_per_class": max(20, settings.train_scenes // 6),
    }  # fmt: skip
    counts = {
        "unlabeled_objects": settings.unlabeled_images // 2, "unlabeled_scenes": settings.unlabeled_images // 2,
        "train_scenes": settings.train_scenes, "test_scenes": settings.test_scenes,
    }  # fmt: skip
    return from_values(DataDemoSettings, {"out": out, "image_size": settings.image_size, **easy, **counts})


def _finetune_both(settings: DemoSettings, data: Path, runs: Mapping[str, Path]) -> dict[str, Any]:
    """From the trunk and from scratch, at the same time, with everything else equal."""
    console.rule("3/3 fine-tuning, from the trunk and from scratch at once", align="left")
    starts = {
        "pretrained": ["--trunk", str(runs["pretrain"])],
        "scratch": ["--trunk", "none", "--like", str(runs["pretrain"])],
    }
    threads = max(1, (settings.threads or torch.get_num_threads()) // len(starts))
    shared = [
        "--train", str(data / "train.json"), "--val", str(data / "test.json"), "--images", str(data),
        "--recipe", "finetune-demo", "--seed", str(settings.seed),
        "--schedule.steps", str(settings.finetune_steps), "--loop.threads", str(threads), *_windows(settings.image_size),
    ]  # fmt: skip
    commands = {}
    for name, start in starts.items():
        if (runs[name] / "summary.json").exists():
            console.print(f"kept from an earlier call: {runs[name] / 'summary.json'}", markup=False)
            continue
        kept = [flag for flag, given in _continued(runs[name]).items() if given]
        commands[name] = ["finetune", *start, *shared, "--out", str(runs[name]), *(f"--{flag}" for flag in kept)]
    if commands:
        run_side_by_side(commands)
    return {name: json.loads((runs[name] / "summary.json").read_text("utf-8")) for name in starts}


def _windows(image_size: int) -> list[str]:
    """RoI windows that show an outline: 7 cells, from P2 for every box narrower than the image.

    Coarser windows tell an object from background, but hardly a star from a disk. What finer ones cost more, half the
    recipe's boxes cost less: enough for three objects.
    """
    return [
        "--detector.roi_size", "7", "--detector.roi_scale", str(2 * image_size), "--detector.boxes_per_image", "16",
    ]  # fmt: skip


def _continued(folder: Path) -> dict[str, bool]:
    """What to give a run for its folder: resume from its checkpoint, or begin anew what never wrote one."""
    resume = (folder / "checkpoints" / "last.pt").exists()
    return {"resume": resume, "overwrite": folder.exists() and not resume}


def _same_demo(settings: DemoSettings) -> None:
    """Finished stages are kept, so the folder must have been made with these settings."""
    folder = RunFolder(settings.out)
    if (folder.path / CONFIG).exists():
        require_same_settings(folder, settings, free=("out", "threads"))
        return
    if folder.path.is_dir() and any(folder.path.iterdir()):
        raise UserError(f"--out {folder.path}: not empty and not a demo of mcl; choose another folder")
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.write_text(CONFIG, dump(settings))
    except OSError as error:
        raise UserError(f"--out {folder.path}: cannot be written: {error.strerror}") from None


def _stage(title: str, result: Path, work: Callable[[], Any]) -> None:
    console.rule(title, align="left")
    if result.exists():
        console.print(f"kept from an earlier call: {result}", markup=False)
        return
    made = work()
    if isinstance(made, dict) and "message" in made:
        console.print(made["message"].splitlines()[0], markup=False)


def _print_table(summaries: dict[str, dict[str, Any]], out: Path) -> None:
    console.rule("result", align="left")
    table = Table(title="Mask R-CNN, test objects and backgrounds not seen in training", title_justify="left")
    table.add_column("start")
    for column in ("box AP", "box AP50", "mask AP", "pre-training", "fine-tuning"):
        table.add_column(column, justify="right")
    before = summaries["pretrain"]["cost"]["seconds"]
    for name, label in (("scratch", "from scratch"), ("pretrained", "pre-trained (MCL)")):
        row, cost = summaries[name], summaries[name]["cost"]
        table.add_row(
            label, percent(row["box_AP"]), percent(row["box_AP50"]), percent(row["mask_AP"]),
            duration(before) if name == "pretrained" else "-", duration(cost["seconds"]),
        )  # fmt: skip
    console.print(table)
    console.print(
        "One seed and minutes of training: this shows the path, not what pre-training is worth "
        "(docs/results.md has runs with several seeds).", markup=False,
    )  # fmt: skip
    for name, what in (
        ("pretrain/montage.png", "what pre-training sees"), ("pretrained/detections.png", "ground truth beside predictions"),
        ("data/preview.png", "the data set"),
    ):  # fmt: skip
        console.print(f"  {out / name}: {what}", markup=False)
    tell_report(*(out / name for name in ("scratch", "pretrained", "pretrain")))
