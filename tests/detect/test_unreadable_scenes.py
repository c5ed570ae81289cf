"""A scene that cannot or must not be decoded: one line with the file, exit code 2, wherever it comes up."""

from __future__ import annotations

import shutil

import pytest
from PIL import Image

from mcl.cli import main

from .conftest import write_toy


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_toy(folder, "train", 4, seed=1, side=80)
    write_toy(folder, "val", 3, seed=2, side=80)
    return folder


@pytest.fixture
def damaged(scenes, tmp_path):
    """A copy, to be spoilt."""
    return shutil.copytree(scenes, tmp_path / "scenes")


def words(command: str, folder, out, **more) -> list[str]:
    given = {"val": folder / "val.json", "images": folder, "out": out} | more
    if command == "finetune":
        given |= {
            "trunk": "none", "train": folder / "train.json", "batch": 2, "image_size": 64, "model.backbone": "test_resnet",
            "model.pyramid_channels": 16, "model.head_convs": 1, "schedule.steps": 2, "precise_bn_images": 0,
            "loop.workers": 1, "loop.threads": 1, "loop.tensorboard": "false", "detector.fc_channels": 16,
            "detector.proposals_test": 10,
        }  # fmt: skip
    return [command, *(word for key, value in given.items() for word in (f"--{key}", str(value)))]


def refused(capsys, argv: list[str]) -> str:
    """The one line."""
    capsys.readouterr()
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("mcl: error: ") and error.count("\n") == 1, error
    return error


def test_an_image_above_max_pixels(damaged, tmp_path, capsys):
    """By its annotation or its header, before anything is trained."""
    out = tmp_path / "run"
    error = refused(capsys, words("finetune", damaged, out, max_pixels=6399))
    assert "train/0.png: 80 x 80 are larger than 6,399 pixels (--max_pixels); raise it" in error
    assert not out.exists()
    Image.new("RGB", (90, 80)).save(damaged / "train/2.png")  # larger than annotated
    error = refused(capsys, words("finetune", damaged, out, max_pixels=6400))
    assert "train/2.png: the image is 90 x 80 pixels, its annotation" in error
    out = tmp_path / "frozen"
    error = refused(capsys, words("finetune", damaged, out, max_pixels=6400, freeze="trunk", calibrate_bn="false"))
    assert "train/2.png: the image is 90 x 80 pixels, its annotation" in error


def test_a_truncated_scene(damaged, tmp_path, capsys):
    whole = (damaged / "val/1.png").read_bytes()
    (damaged / "val/1.png").write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "run"
    error = refused(capsys, words("finetune", damaged, out))  # after training
    assert "val/1.png: " in error and "mend the file or take it out of the annotations" in error
    (damaged / "val/1.png").write_bytes(whole)
    assert main([*words("finetune", damaged, out), "--resume"]) == 0  # what was trained is kept
    (damaged / "val/1.png").write_bytes(whole[: len(whole) // 2])
    again = words("evaluate", damaged, tmp_path / "again", detector=out, workers=1)
    assert "val/1.png: " in refused(capsys, again)
    (damaged / "val/1.png").write_bytes(whole)
    assert "val/0.png: 80 x 80 are larger than 4,096 pixels (--max_pixels)" in refused(
        capsys, [*again, "--max_pixels", "4096", "--overwrite"]
    )
    (damaged / "train/3.png").write_bytes(b"no picture")
    assert "train/3.png: not an image" in refused(capsys, words("finetune", damaged, tmp_path / "third"))
