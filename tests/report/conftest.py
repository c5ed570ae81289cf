"""Run folders as commands leave them, written by the same functions, without the training between."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.detect import conftest as toy_scenes

from mcl.config.base import dump, from_values
from mcl.config.finetune import EvaluateSettings, FinetuneSettings
from mcl.config.pretrain import PretrainSettings
from mcl.data.labels.coco_json import read_coco
from mcl.detect.evaluate import coco_numbers
from mcl.detect.figure import save_detections
from mcl.engine.run_folder import RunFolder
from mcl.report.page import page_of, render
from mcl.report.runs import read_runs

WILD = ["<script>document.title='taken'</script>", "a [/b] \"quoted\"", "costs $5^{ & more\x1b"]
LEVELS = ("p2", "p3", "p4", "p5")


@pytest.fixture(scope="session")
def annotated(tmp_path_factory) -> Path:
    """A folder with ``val.json``, whose classes have wild names, and its images."""
    folder = tmp_path_factory.mktemp("annotated")
    path = toy_scenes.write_toy(folder, "val", 12, seed=3)
    content = json.loads(path.read_text())
    for category, name in zip(content["categories"], WILD, strict=True):
        category["name"] = name
    path.write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def runs(tmp_path_factory, annotated) -> dict[str, Path]:
    """Name -> folder of one run of every kind, and of runs that are not finished."""
    root = tmp_path_factory.mktemp("runs")
    return {
        "pretrain": pretraining(root / "pretrain", finished=True),
        "begun": pretraining(root / "begun", finished=False),
        "good": detector(root / "good <b>", annotated, noise=1.0),
        "poor": detector(root / "poor", annotated, noise=6.0),
        "evaluated": evaluation(root / "evaluated", annotated),
        "study": study(root / "study"),
    }


@pytest.fixture(scope="session")
def html(runs) -> str:
    """The page of all of them."""
    return render(page_of(read_runs(list(runs.values())), "What <we> found", 100))


def pretraining(path: Path, finished: bool) -> Path:
    """A pre-training of 400 steps, or of which 100 are done; its settings are the recipe's but for three."""
    given = {"data": "photos", "out": path, "recipe": "mcl-tiny-128", "image_size": 64, "schedule.steps": 400, "seed": 7}
    folder = RunFolder(path)
    path.mkdir()
    folder.write_text("config.yaml", dump(from_values(PretrainSettings, given)))
    rng = np.random.default_rng(0)
    rows = [_pretraining_row(step, rng) for step in range(10, 410 if finished else 110, 10)]
    rows[3]["warnings"] = {"data_wait": "<i>27%</i> of the time the training waits for data"}
    folder.write_text("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    if finished:
        warned = [{"step": 40, "kind": "data_wait", "text": rows[3]["warnings"]["data_wait"]}]
        cost = {"steps": 400, "images": 25600, "seconds": 95.0, "images_per_second": 269.5, "data_wait": 0.0123, "peak_memory_mb": 998.6}
        folder.write_json("summary.json", {"images": 8000, "skipped": 2, "cost": cost, "last": rows[-1], "warnings": warned})
    _picture(path / "montage.png")
    return path


def detector(path: Path, annotated: Path, noise: float) -> Path:
    """A fine-tuning whose boxes are the annotated ones, off by so many pixels."""
    given = {
        "trunk": "none", "train": annotated / "val.json", "val": annotated / "val.json", "images": annotated, "out": path,
        "schedule.steps": 90, "optim.lr": 3e-3,
    }  # fmt: skip
    path.mkdir()
    folder = RunFolder(path)
    folder.write_text("config.yaml", dump(from_values(FinetuneSettings, given)))
    rows = [{"step": step, "loss": 3 - step / 90, "loss/box_reg": 1.0, "loss/mask": 2 - step / 90, "lr": 1e-3} for step in range(10, 100, 10)]
    folder.write_text("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    numbers = _measured(folder, annotated, noise)
    points = [{"step": step, "box_AP": numbers["bbox"]["AP"] * step / 90, "mask_AP": None} for step in (30, 60)]
    folder.write_text("curve.jsonl", "".join(json.dumps(point) + "\n" for point in points))
    cost = {"steps": 90, "images": 720, "seconds": 61.0, "images_per_second": 11.8, "data_wait": 0.02, "peak_memory_mb": 500.0, "total_seconds": 70.0}
    folder.write_json("summary.json", {
        "trunk": "none", "parts": "none", "train_images": 12, "box_AP": numbers["bbox"]["AP"], "mask_AP": numbers["segm"]["AP"],
        "cost": cost, "notes": ["val.json: <u>1</u> of 51 boxes has no area: left out"], "warnings": [],
    })  # fmt: skip
    return path


def evaluation(path: Path, annotated: Path) -> Path:
    """What ``mcl evaluate`` leaves."""
    given = {"detector": path.parent / "poor", "val": annotated / "val.json", "images": annotated, "out": path}
    path.mkdir()
    folder = RunFolder(path)
    folder.write_text("config.yaml", dump(from_values(EvaluateSettings, given)))
    numbers = _measured(folder, annotated, noise=3.0)
    folder.write_json("summary.json", {"detector": "poor", "box_AP": numbers["bbox"]["AP"], "test_images": 12, "notes": []})
    return path


def study(path: Path) -> Path:
    """What ``mcl compare`` leaves, of two data sets, budgets and numbers of labels."""

    def row(data: str, start: str, labels: int, steps: int | None) -> dict:
        ap = 0.1 + 0.001 * labels + (0.002 * steps if steps else 0)
        point = [ap, ap - 0.02, ap + 0.02]
        return {
            "data": data, "start": start, "entry": start, "freeze": "none", "labels": labels, "steps": 50, "seeds": 3,
            "budget": {"steps": steps, "images": 4 * steps, "flops": steps * 10**12} if steps else None,
            "pretrain_seeds": 1, "box_AP": point, "box_AP difference": None if start == "scratch" else [0.05, -0.01, 0.1],
            "pretrain_seconds": 60.0 if steps else None, "pretrain_peak_mb": 100.0 if steps else None, "finetune_seconds": 5.0,
            "curve": [{"step": s, "mean": ap * s / 50, "least": 0.0, "most": ap} for s in (25, 50)],
        }  # fmt: skip

    starts = (("scratch", None), ("<em>mine</em> $x^{", 10), ("<em>mine</em> $x^{", 40))
    rows = [row(data, start, n, steps) for data in ("stamps", "trees") for start, steps in starts for n in (10, 20)]
    path.mkdir()
    content = {"study": "toy", "about": "Is <b>it</b> worth it?", "reference": "scratch", "control": None, "resamples": 100, "rows": rows, "trials": []}
    RunFolder(path).write_json("results.json", content)
    return path


def _measured(folder: RunFolder, annotated: Path, noise: float) -> dict:
    """Predictions with scores, eval.json and detections.png; returns the numbers."""
    scenes = read_coco(annotated / "val.json", annotated)
    rng = np.random.default_rng(int(noise))
    found = {"bbox": [], "segm": []}
    for scene in scenes.scenes:
        for thing in scene.objects:
            x1, y1, x2, y2 = np.array(thing.box) + rng.normal(0, noise, 4)
            wrong = rng.random() < 0.2
            category = 5 if wrong else thing.category
            head = {"image_id": scene.id, "category_id": category, "score": round(float(rng.uniform(0.2, 1)), 3)}
            found["bbox"].append({**head, "bbox": [float(v) for v in (x1, y1, max(1, x2 - x1), max(1, y2 - y1))]})
            found["segm"].append({**head, "segmentation": _box_mask(x1, y1, x2, y2, scene.height, scene.width)})
    numbers = coco_numbers(scenes, found) | {"images": len(scenes.scenes), "seconds": 1.0}
    for kind, results in found.items():
        folder.write_json(f"predictions.{kind}.json", results)
    folder.write_json("eval.json", numbers)
    save_detections(folder.path / "detections.png", scenes, found)
    return numbers


def _box_mask(x1: float, y1: float, x2: float, y2: float, height: int, width: int) -> dict:
    from faster_coco_eval.core import mask as rle

    bitmap = np.zeros((height, width), np.uint8)
    bitmap[max(0, round(y1)) : max(1, round(y2)), max(0, round(x1)) : max(1, round(x2))] = 1
    encoded = rle.encode(np.asfortranarray(bitmap))
    counts = encoded["counts"]
    return {"size": [height, width], "counts": counts.decode() if isinstance(counts, bytes) else counts}


def _pretraining_row(step: int, rng: np.random.Generator) -> dict:
    row = {"step": step, "loss": 4 - step / 200 + rng.normal(0, 0.05), "spread": 0.99, "rank": 5 + step / 100, "chance": 1 / 64, "lr": 1e-3}
    for i, level in enumerate(LEVELS):
        row |= {f"loss/{level}": 1 - step / 1000, f"positive_cosine/{level}": step / 1000 + i / 50, f"negative_cosine/{level}": 0.01}
        row[f"accuracy/{level}"] = 1 / 64 + step / 4000
    return row


def _picture(path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(path)
