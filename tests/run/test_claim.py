"""No command clears a folder with one of its inputs, or with the run of another command."""

from __future__ import annotations

import pytest
import torch
import yaml

from detect.conftest import SPEC, write_toy
from images import picture_folder
from mcl.cli import main
from mcl.config.base import dump, from_values
from mcl.config.demo import DemoSettings
from mcl.config.finetune import EvaluateSettings, FinetuneSettings
from mcl.config.predict import PredictSettings
from mcl.config.pretrain import PretrainSettings
from mcl.nn.trunk import Trunk, save_trunk
from mcl.run.claim import command_of
from tiny import TINY

SCENES = {"val": "v", "images": "i", "out": "o"}
SETTINGS = {
    "pretrain": (PretrainSettings, {"data": "d", "out": "o"}),
    "finetune": (FinetuneSettings, {"trunk": "none", "train": "t", **SCENES}),
    "evaluate": (EvaluateSettings, {"detector": "d", **SCENES}),
    "demo": (DemoSettings, {"out": "o"}),
    "predict": (PredictSettings, {"model": "m", "images": "i", "out": "o"}),
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    for name, count in (("train", 6), ("val", 3)):
        write_toy(folder, name, count, seed=1)
    picture_folder(folder / "photos", 8)
    return folder


@pytest.fixture(scope="module")
def fine(toy):
    """A finished fine-tuning, and the words that made it."""
    torch.manual_seed(1)
    save_trunk(toy / "start.safetensors", Trunk(SPEC), {})
    words = [
        "--train", str(toy / "train.json"), "--val", str(toy / "val.json"), "--images", str(toy), "--batch", "2",
        "--schedule.steps", "1", "--loop.workers", "0", "--loop.tensorboard", "false", "--precise_bn_images", "0",
        "--detector.fc_channels", "16", "--loop.threads", "1",
    ]  # fmt: skip
    out = toy / "fine"
    assert main(["finetune", "--trunk", str(toy / "start.safetensors"), "--out", str(out), *words]) == 0
    return out, words


@pytest.fixture
def refused(capsys):
    """Run a command that must be refused; gives its one line."""

    def call(folder, *words):
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        capsys.readouterr()
        assert main([str(word) for word in words]) == 2
        error = capsys.readouterr().err
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before and error.count("\n") == 1
        return error

    return call


@pytest.mark.parametrize("how", [(), ("--overwrite",)])
def test_a_folder_with_an_input_is_not_cleared_and_not_said_to_be(toy, fine, refused, how):
    out, words = fine
    scenes = words[2:6]
    line = refused(out, "evaluate", "--detector", out, *scenes, "--out", out, *how)
    assert f"--detector {out} lies in it and would be lost" in line and "--overwrite" not in line
    line = refused(out, "finetune", "--trunk", out / "detector.safetensors", *words, "--out", out, *how)
    assert "--trunk" in line and "lies in it and would be lost" in line and "--overwrite" not in line


def test_a_run_of_another_command_is_not_cleared(toy, fine, refused):
    out, words = fine
    line = refused(out, "pretrain", "--data", toy / "photos", *TINY, "--out", out, "--overwrite")
    assert "holds a run of mcl finetune, which mcl pretrain does not replace" in line
    line = refused(out, "evaluate", "--detector", toy / "other", *words[2:6], "--out", out, "--overwrite")
    assert "other" in line  # no detector there: nothing is cleared for what cannot be done


def test_evaluate_replaces_an_evaluation_and_never_a_training(toy, fine, refused, tmp_path):
    out, words = fine
    again = ["evaluate", "--detector", out, *words[2:6], "--workers", "0", "--overwrite", "--out"]
    assert main([str(word) for word in [*again, tmp_path / "test"]]) == 0
    assert main([str(word) for word in [*again, tmp_path / "test"]]) == 0
    second = tmp_path / "second"
    assert main(["finetune", "--trunk", str(toy / "start.safetensors"), "--out", str(second), *words]) == 0
    assert "holds a run of mcl finetune" in refused(second, *again, second)


def test_overwrite_and_resume_together_are_refused(toy, fine, refused):
    out, words = fine
    line = refused(out, "finetune", "--trunk", toy / "start.safetensors", *words, "--out", out, "--resume", "--overwrite")
    assert "not both" in line


def test_a_foreign_folder_that_has_a_config_yaml_is_not_cleared(toy, refused, tmp_path):
    (tmp_path / "config.yaml").write_text("data: photos\ndefaults: [a]\nhydra: {run: b}\n")
    line = refused(tmp_path, "pretrain", "--data", toy / "photos", *TINY, "--out", tmp_path, "--overwrite")
    assert "not a run of mcl" in line


def test_an_export_does_not_replace_what_it_reads(fine, refused, toy):
    trunk = toy / "start.safetensors"
    line = refused(toy, "export", trunk, "--to", "safetensors", "--out", trunk, "--overwrite")
    assert "would be lost" in line
    out, _ = fine
    line = refused(toy, "export", out, "--to", "safetensors", "--out", out / "detector.safetensors", "--overwrite")
    assert "is what the run" in line


@pytest.mark.parametrize("name", SETTINGS)
def test_a_config_tells_its_command(name):
    command, given = SETTINGS[name]
    assert command_of(yaml.safe_load(dump(from_values(command, given)))) == name
