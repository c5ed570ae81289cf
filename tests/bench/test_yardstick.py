"""The yardstick's list of runs and its verdicts; pictures carved out of archives."""

from __future__ import annotations

import io
import json
import re
import struct
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).parents[2] / "benchmarks"
sys.path[:0] = [str(ROOT), str(ROOT / "testbeds")]

import backgrounds  # noqa: E402
import yardstick  # noqa: E402

from mcl.config.base import from_values  # noqa: E402
from mcl.config.finetune import FinetuneSettings  # noqa: E402
from mcl.config.pretrain import PretrainSettings  # noqa: E402


def test_starts_are_tuned_alike():
    """All settings are valid, and scratch and control differ in nothing but where they start."""
    cells = list(yardstick.cells(yaml.safe_load(yardstick.PLAN.read_text())))
    assert len({cell.name for cell in cells}) == len(cells)
    for cell in cells:
        values = {
            "trunk": "none",
            "train": "x",
            "val": "x",
            "images": "x",
            "out": "x",
            "recipe": "finetune-demo",
        }
        from_values(FinetuneSettings, values | cell.settings)
    for testbed in {cell.testbed for cell in cells}:
        tuned = [cell for cell in cells if cell.testbed == testbed and cell.start != "teacher"]
        starts = [cell.start for cell in tuned]
        assert starts.count("scratch") == starts.count("control") > 0
        assert all((c.data, c.test, c.settings, c.scenes) == (testbed, testbed, *_same(tuned)) for c in tuned)
        assert [cell.start for cell in cells if cell.testbed == testbed][:3] == [
            "scratch",
            "teacher",
            "control",
        ]


def test_tries_differ_from_scratch_in_their_trunk_alone():
    """Their pre-trainings are valid, and the fine-tunings are scratch's."""
    cells = list(yardstick.cells(yaml.safe_load(yardstick.PLAN.read_text())))
    tries = [cell for cell in cells if cell.pretrain]
    assert tries
    for cell in tries:
        settings = from_values(PretrainSettings, {"data": "x", "out": "x", **cell.pretrain})
        assert settings.schedule.steps and settings.loop.threads == 1
        scratch = next(c for c in cells if (c.testbed, c.start) == (cell.testbed, "scratch"))
        assert replace(cell, start="scratch", seed=0, pretrain=None, pretrain_seed=0) == scratch


def test_fine_tunings_share_a_pretraining(tmp_path, monkeypatch):
    """Two pre-trainings serve three seeds; a fine-tuning never starts another seed's pre-training, it waits for it."""
    plan = yaml.safe_load(yardstick.PLAN.read_text())
    plan["testbeds"] = {"bed": plan["testbeds"]["clipart"] | {"tries": {"a-try": {"pretrainings": 2}}}}
    tries = [cell for cell in yardstick.cells(plan) if cell.start == "a-try"]
    assert [(cell.seed, cell.pretrain_seed) for cell in tries] == [(0, 0), (1, 1), (2, 0)]
    pretrained = []

    def pretrain(command, **_):
        out = Path(command[command.index("--out") + 1])
        pretrained.append((out.name, command[command.index("--seed") + 1]))
        out.mkdir()
        (out / "summary.json").write_text('{"cost": {"steps": 3}}')

    def finetune(cell, trunk, data, runs):
        (tmp_path / cell.name).mkdir()
        (tmp_path / cell.name / "summary.json").write_text("{}")
        (tmp_path / cell.name / "config.yaml").write_text(f"{{trunk: {trunk}, train: c/train.json}}")

    monkeypatch.setattr(yardstick.subprocess, "run", pretrain)
    monkeypatch.setattr(yardstick, "_finetune", finetune)
    monkeypatch.setattr(yardstick, "RESULTS", tmp_path / "results")
    yardstick.run_all(tries[::-1], tmp_path, tmp_path)
    assert pretrained == [("bed-a-try-1-pretrain", "1"), ("bed-a-try-0-pretrain", "0")]
    results = [json.loads((tmp_path / f"results/bed-a-try-{seed}.json").read_text()) for seed in range(3)]
    assert [one["settings"]["trunk"] for one in results] == [f"bed-a-try-{seed}-pretrain" for seed in (0, 1, 0)]
    assert [one["pretrain"]["seed"] for one in results] == [0, 1, 0]
    assert all(one["pretrain"]["flops"] > 0 for one in results)


def _same(tuned):
    return tuned[0].settings, tuned[0].scenes


def write_result(folder, start, seed, box_ap, cost_of_pretraining=None):
    summary = {"box_AP": box_ap, "mask_AP": None, "class_agnostic_AP": box_ap, "train_images": 400}
    summary |= {"cost": {"steps": 10, "seconds": 90.0}}
    content = {"testbed": "bed", "start": start, "seed": seed, "summary": summary}
    if cost_of_pretraining:
        content["pretrain"] = {"summary": {"cost": cost_of_pretraining}, "flops": 1.445e14, "seed": seed % 2}
    (folder / f"bed-{start}-{seed}.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("scratch", "control", "words"),
    [
        ((0.16, 0.18), (0.23, 0.25), r"leads by \+7.0 box AP \(\+7.0 .. \+7.0\), scratch at 17.0: counts"),
        ((0.16, 0.18), (0.21, 0.24), r"\+5.5 .*: does not count"),
        ((0.10, 0.12), (0.30, 0.30), "scratch at 11.0: does not count"),
        ((0.50, 0.52), (0.60, 0.62), "scratch at 51.0: does not count"),
        ((0.16, 0.18), (), "not complete"),
    ],
)
def test_verdicts(tmp_path, scratch, control, words):
    for start, values in (("scratch", scratch), ("control", control)):
        for seed, value in enumerate(values):
            write_result(tmp_path, start, seed, value)
    table = yardstick.table(tmp_path)
    assert re.search(words, table), table
    assert f"| bed | random trunk | 2 | {50 * sum(scratch):.1f} (" in table


def test_a_try_is_a_share_of_the_way(tmp_path):
    """Over the seeds that scratch and control have too."""
    for seed, value in enumerate((0.20, 0.22)):
        write_result(tmp_path, "scratch", seed, value)
        write_result(tmp_path, "control", seed, value + 0.10)
    for seed, value in enumerate((0.24, 0.24, 0.9)):
        write_result(tmp_path, "a-try", seed, value, {"images": 76_800, "seconds": 1800.0})
    row = next(line for line in yardstick.table(tmp_path).splitlines() if "| a-try |" in line)
    assert row.startswith("| bed | a-try | 3 |") and "| 30% |" in row and row.endswith("| 2 | 76,800 | 144 | 0.5 |")


def test_no_results_are_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no results"):
        yardstick.table(tmp_path)


def a_cell(start, scenes=None):
    return yardstick.Cell("bed", start, 0, "set", "set", {}, scenes)


def test_first_scenes_keep_their_annotations(tmp_path):
    content = {
        "images": [{"id": i} for i in (3, 5, 9)],
        "annotations": [{"image_id": i} for i in (9, 5, 3, 3)],
    }
    train = tmp_path / "train.json"
    train.write_text(json.dumps(content))
    first = json.loads(yardstick._first_scenes(train, a_cell("scratch", 2), tmp_path).read_text())
    assert [image["id"] for image in first["images"]] == [3, 5]
    assert [item["image_id"] for item in first["annotations"]] == [5, 3, 3]
    assert yardstick._first_scenes(train, a_cell("scratch"), tmp_path) == train


def test_processes_share_the_runs(tmp_path, monkeypatch):
    """One cell is another process's, the control waits for its trunk, and what is done is only collected."""
    ran = []

    def finetune(cell, trunk, data, runs):
        ran.append((cell.name, trunk))
        done(cell.name)

    def done(name):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text("{}")
        (tmp_path / name / "config.yaml").write_text("{trunk: a/b, train: c/train.json, optim: {lr: 1}}")

    monkeypatch.setattr(yardstick, "_finetune", finetune)
    monkeypatch.setattr(yardstick, "_trunk_of", lambda folder: folder / "trunk")
    monkeypatch.setattr(yardstick, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(yardstick.time, "sleep", lambda _: (lock.close(), done("bed-teacher-0")))
    lock = (tmp_path / "bed-teacher-0.lock").open("w")
    yardstick.fcntl.flock(lock, yardstick.fcntl.LOCK_EX)
    yardstick.run_all([a_cell("teacher"), a_cell("control"), a_cell("scratch")], tmp_path, tmp_path)
    assert ran == [("bed-scratch-0", "none"), ("bed-control-0", str(tmp_path / "bed-teacher-0/trunk"))]
    result = json.loads((tmp_path / "results/bed-teacher-0.json").read_text())
    assert result["settings"] == {"trunk": "b", "train": "train.json", "optim": {"lr": 1}}
    assert len(list((tmp_path / "results").iterdir())) == 3


def test_carving(tmp_path):
    """Pictures are found between other bytes; transparent ones and chance matches are not taken."""
    content = b"qres" + bytes(range(256)) + b"\xff\xd8\xff no picture"
    for format_, mode in (("JPEG", "RGB"), ("WEBP", "RGB"), ("WEBP", "RGBA")):
        pixels = np.full((24, 32, len(mode)), 90, np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels, mode).save(buffer, format_)
        content += b"abc" + struct.pack(">I", len(buffer.getvalue())) + buffer.getvalue()
    (tmp_path / "some.rcc").write_bytes(content)
    found = list(backgrounds.carved(tmp_path / "some.rcc"))
    assert [image.size for _, image in found] == [(32, 24)] * 2
    assert all(
        name.startswith("some-") and np.asarray(image).mean() == pytest.approx(90, abs=2)
        for name, image in found
    )
