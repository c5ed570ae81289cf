"""``--resume --out RUN`` needs nothing else: a run knows its settings, and where its files are."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from detect.conftest import SPEC, stop_after_two, write_toy
from images import picture_folder
from mcl.cli import main
from mcl.config.base import from_values
from mcl.config.finetune import FinetuneSettings
from mcl.config.pretrain import PretrainSettings
from mcl.config.saved import is_here, with_absolute_paths
from mcl.nn.trunk import Trunk, save_trunk
from tiny import TINY, assert_same_state


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to start runs in, with pictures, scenes and a trunk in it."""
    picture_folder(tmp_path / "photos", 20)
    for name, count in (("train", 8), ("val", 3)):
        write_toy(tmp_path, name, count, seed=1)
    torch.manual_seed(1)
    save_trunk(tmp_path / "trunk.safetensors", Trunk(SPEC), {})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


LINES = {
    "pretrain": [
        "pretrain", *TINY, "--data", "photos", "--loop.workers", "0", "--schedule.steps", "4", "--method.name", "byol",
        "--seed", "3",
    ],
    "finetune": [
        "finetune", "--trunk", "trunk.safetensors", "--train", "train.json", "--val", "val.json", "--images", ".",
        "--batch", "2", "--schedule.steps", "4", "--loop.workers", "0", "--loop.tensorboard", "false", "--loop.threads", "1",
        "--precise_bn_images", "4", "--detector.name", "retinanet", "--detector.candidates", "50", "--seed", "3",
    ],
}  # fmt: skip


@pytest.mark.parametrize("command", LINES)
def test_a_stopped_run_goes_on_with_its_own_settings_from_anywhere(place, command, monkeypatch, capsys):
    words = LINES[command]
    assert main([*words, "--out", "whole"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"mcl.run.{command}.run_loop", stop_after_two)
        assert main([*words, "--out", "parts", "--loop.checkpoint_every", "1"]) == 130
    monkeypatch.chdir("elsewhere")
    capsys.readouterr()
    assert main([command, "--resume", "--out", "../parts"]) == 0
    assert "going on from step 2 of 4 (../parts/checkpoints/last.pt)" in capsys.readouterr().out
    assert_same_state(place / "whole", place / "parts")
    saved = yaml.safe_load((place / "parts/config.yaml").read_text())
    assert saved["seed"] == 3 and saved["out"] == str(place / "parts")


@pytest.mark.parametrize("command", LINES)
def test_a_finished_run_has_nothing_to_do(place, command, capsys):
    assert main([*LINES[command], "--out", "run"]) == 0
    before = {path: path.stat().st_mtime_ns for path in (place / "run").glob("*") if path.name in ("summary.json", "eval.json")}
    summary = (place / "run/summary.json").read_text()
    capsys.readouterr()
    assert main([command, "--resume", "--out", "run"]) == 0
    said = capsys.readouterr().out
    assert "nothing to do: run has ended well; its result is run/" in said and "has done step 4 of 4" in said
    assert (place / "run/summary.json").read_text() == summary and all(p.stat().st_mtime_ns == t for p, t in before.items())


def test_a_run_that_was_stopped_while_measuring_is_measured(place, capsys):
    assert main([*LINES["finetune"], "--out", "run"]) == 0
    (place / "run/summary.json").unlink()
    assert main(["finetune", "--resume", "--out", "run"]) == 0
    assert "nothing to do" not in capsys.readouterr().out
    assert json.loads((place / "run/summary.json").read_text())["cost"]["steps"] == 4


def test_what_is_given_lies_over_the_runs_own(place, capsys):
    assert main([*LINES["pretrain"], "--out", "run"]) == 0
    capsys.readouterr()
    assert main(["pretrain", "--resume", "--out", "run", "--optim.lr", "0.5"]) == 2
    error = capsys.readouterr().err
    assert "1 setting(s) differ" in error and "  --optim.lr was 0.001, now 0.5\n" in error
    assert main(["pretrain", "--resume", "--out=run", "--loop.log_every", "2", "--data", "photos"]) == 0


def test_paths_of_versions_that_kept_them_as_given_are_still_the_same(place):
    assert main([*LINES["finetune"], "--out", "run"]) == 0
    config = place / "run/config.yaml"
    relative = config.read_text().replace(f"{place}/", "")
    content = torch.load(place / "run/checkpoints/last.pt", weights_only=True)
    torch.save({**content, "config": relative}, place / "run/checkpoints/last.pt")
    config.write_text(relative)
    assert "train: train.json" in relative
    assert main(["finetune", "--resume", "--out", "run"]) == 0
    assert main([*LINES["finetune"], "--resume", "--out", "run"]) == 0


def test_only_places_on_this_machine_are_made_absolute(place):
    given = {"data": "photos", "out": "o", "init_from": "resnet18", "watch.knn_data": "s3://bucket/photos"}
    settings = with_absolute_paths(from_values(PretrainSettings, given))
    assert settings.data == str(place / "photos") and settings.out == place / "o"
    assert settings.init_from == "resnet18" and settings.watch.knn_data == "s3://bucket/photos"
    scenes = {"train": "t", "val": "v", "images": "i", "out": "o"}
    assert with_absolute_paths(from_values(FinetuneSettings, {"trunk": "none", **scenes})).trunk == "none"


@pytest.mark.parametrize(
    ("location", "here"),
    [("photos", True), ("photos/*.jpg", True), ("photos/{0..9}.tar", True), ("gone/*.jpg", False), ("https://a/b*", False),
     ("pipe:cat photos", False), ("none", False), ("x\0y", False), ("*.jpg", True)],
)  # fmt: skip
def test_what_is_here(place, location, here):
    assert is_here(location) is here
