"""Paper-sized recipes of ``mcl finetune``: their schedules, and some steps of each on a tiny set in its own layout."""

from __future__ import annotations

import json
import math

import pytest

from layouts import write
from mcl.cli import main
from mcl.config.base import from_values, recipe_layers
from mcl.config.finetune import FinetuneSettings
from mcl.run.finetune import finetune

# recipe -> layout of its data set, steps, images a step, lr of such a step, steps at which lr falls
PUBLISHED = {
    "finetune-1x": ("coco", 90_000, 16, 0.02, [60_000, 80_000]),
    "finetune-2x": ("coco", 180_000, 16, 0.02, [120_000, 160_000]),
    "finetune-scratch-6x": ("coco", 540_000, 16, 0.02, [480_000, 520_000]),
    "finetune-1x-retinanet": ("coco", 90_000, 16, 0.01, [60_000, 80_000]),
    "finetune-1x-fcos": ("coco", 90_000, 16, 0.01, [60_000, 80_000]),
    "finetune-lvis": ("lvis", 180_000, 16, 0.02, [120_000, 160_000]),
    "finetune-voc": ("voc", 24_000, 16, 0.02, [18_000, 22_000]),
    "finetune-cityscapes": ("cityscapes", 24_000, 8, 0.01, [18_000]),
}
RCNN = {"detector.fc_channels": 32, "detector.boxes_per_image": 16}
# Everything of a recipe that a test cannot pay for; its rates, sampling, detections and jitter stay.
SMALL = {
    "model.backbone": "test_resnet", "model.pyramid_channels": 16, "model.head_convs": 1, "image_size": 64, "batch": 2,
    "views.short_sides": [48, 64], "views.long_side": 96, "schedule.steps": 3, "schedule.warmup_steps": 1,
    "loop.workers": 0, "loop.threads": 1, "loop.tensorboard": False, "precise_bn_images": 2, "loop.log_every": 1,
}  # fmt: skip


def read(recipe: str, **given) -> FinetuneSettings:
    return from_values(FinetuneSettings, {"recipe": recipe, "trunk": "none", "train": "a", "val": "b", "images": "c", "out": "d", **given})


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_schedules_are_the_published_ones(recipe):
    _, steps, batch, lr, falls = PUBLISHED[recipe]
    settings = read(recipe)
    assert (settings.schedule.steps, settings.batch, settings.schedule.decay) == (steps, batch, "multistep")
    assert settings.optim.lr * settings.batch / settings.optim.lr_batch == pytest.approx(lr)
    assert [round(fraction * steps) for fraction in settings.schedule.milestones] == falls


def test_a_recipe_builds_on_another_and_says_only_what_differs():
    origins = [origin for origin, _ in recipe_layers("finetune-lvis")]
    assert origins == ["recipe finetune-1x", "recipe finetune-2x", "recipe finetune-lvis"]
    settings = read("finetune-lvis")
    assert (settings.sampling, settings.repeat_threshold) == ("repeat_factor", 0.001)
    assert (settings.detector.detections_per_image, settings.detector.score_threshold) == (300, 1e-4)
    assert settings.detector.boxes_per_image == 512 and settings.schedule.warmup_steps == 1000, "those of finetune-1x"
    assert read("finetune-lvis", **{"schedule.steps": 7}).schedule.steps == 7, "the command line stands above"
    assert not hasattr(read("finetune-1x-fcos").detector, "roi_size"), "an R-CNN's settings fall away"


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_some_steps_on_a_set_in_its_own_layout(recipe, tmp_path, capsys):
    given = {}
    for part, count, seed in (("train", 6, 1), ("val", 3, 2)):
        layout = write(PUBLISHED[recipe][0], tmp_path / "set", part, count, seed)
        file = tmp_path / f"{part}.json"
        images = ["--images", str(layout.images)] if layout.images else []
        assert main(["data", "convert", "--labels", layout.given, *images, "--out", str(file)]) == 0
        root = "".join(capsys.readouterr().out.split("--images ")[1].split()[0])
        given |= {part: file, "images" if part == "train" else "val_images": root}
    kind = read(recipe).detector.name
    small = {**SMALL, **(RCNN if kind not in ("retinanet", "fcos") else {})}
    summary = finetune(read(recipe, **{**small, **given, "out": tmp_path / "run"}))
    expected = {"auto": "mask-rcnn"}.get(kind, kind)
    assert summary["detector"] == expected
    assert 0 <= summary["box_AP"] <= 1 and (summary["mask_AP"] is not None) == (expected == "mask-rcnn")
    numbers = json.loads((tmp_path / "run/eval.json").read_text())
    own = {"lvis": "AP_rare" in numbers["bbox"], "voc": "voc" in numbers, "cityscapes": "cityscapes" in numbers}
    assert own == {name: name == PUBLISHED[recipe][0] for name in own}, "each set is measured as its authors do"
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 3 and all(math.isfinite(loss) and loss > 0 for loss in losses)
