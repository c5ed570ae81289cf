"""What a user meets every day: mistakes told early, numbers told late, and messages that name what exists."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from PIL import Image

import mcl
from detect.conftest import write_toy
from images import picture_folder
from mcl.cli import main
from mcl.config.base import flat_fields
from mcl.config.optim import LoopSettings
from mcl.config.pretrain import PretrainSettings
from mcl.data.labels.coco_json import read_coco
from mcl.data.labels.sizes import require_sizes
from mcl.engine import space
from mcl.engine.logging import describe
from mcl.engine.machine.device import device_type, prepare_device
from mcl.errors import UserError
from mcl.run.annotations import count_classes, shared_images
from tiny import TINY

SMALL = [
    "--trunk", "none", "--model.backbone", "test_resnet", "--model.pyramid_channels", "16", "--model.head_convs", "1",
    "--image_size", "64", "--batch", "4", "--schedule.steps", "1", "--loop.workers", "0", "--loop.tensorboard", "false",
    "--detector.fc_channels", "16", "--loop.threads", "1", "--precise_bn_images", "9",
]  # fmt: skip


@pytest.fixture
def toy(tmp_path):
    for name, count in (("train", 6), ("val", 3)):
        write_toy(tmp_path, name, count, seed=1)
    return tmp_path


def words(toy: Path, **more: Path) -> list[str]:
    given = {"train": toy / "train.json", "val": toy / "val.json", "images": toy, "out": toy / "run", **more}
    return ["finetune", *SMALL, *(word for key, value in given.items() for word in (f"--{key}", str(value)))]


def test_fine_tuning_tells_its_classes_before_and_instances_after(toy, capsys):
    assert main(words(toy)) == 0
    before, _, after = capsys.readouterr().out.partition("COCO numbers")
    counts = {part: count_classes(read_coco(toy / f"{part}.json", toy)) for part in ("train", "val")}
    for name, (images, boxes) in counts["train"].items():
        own = rf"│ {name} +│ +{images} │ +{boxes} │ +{counts['val'][name][0]} │ +{counts['val'][name][1]} │"
        assert re.search(own, before), before
        assert re.search(rf"│ AP {name} .*│ +{counts['val'][name][1]} │", after), after
    evaluated = json.loads((toy / "run/eval.json").read_text())
    assert evaluated["instances"] == {name: boxes for name, (_, boxes) in counts["val"].items()}


def test_precise_norms_tell_how_many_images_they_saw(toy, capsys):
    """9 images are asked for: two batches of 4, and there are 6."""
    assert main(words(toy)) == 0
    assert "over 6 images (8 views of them)" in capsys.readouterr().out


def test_images_that_are_trained_and_measured_on_are_warned_of(toy, capsys):
    train, val = (read_coco(toy / f"{name}.json", toy) for name in ("train", "val"))
    assert shared_images(train, val) == []
    (line,) = shared_images(train, train)
    assert line.startswith("warning: 6 of 6 images of train.json are trained on (train.json)")
    assert main(words(toy, val=toy / "train.json")) == 0
    assert line in capsys.readouterr().out


def test_a_wrong_size_is_found_before_training(toy, capsys):
    path = toy / "train/3.png"
    with Image.open(path) as image:
        image.resize((60, 64)).save(path)
    assert main(words(toy)) == 2
    assert f"{path}: the image is 60 x 64 pixels, its annotation (image 13) says 64 x 64" in capsys.readouterr().err
    assert not (toy / "run").exists()


def test_sizes_in_either_orientation_are_right(toy):
    path = toy / "train/0.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save(path.with_suffix(".jpg"), exif=exif)
    content = json.loads((toy / "train.json").read_text())
    content["images"][0] |= {"file_name": "train/0.jpg", "width": 48}
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] != 10]
    (toy / "train.json").write_text(json.dumps(content))
    require_sizes(read_coco(toy / "train.json", toy).scenes)
    content["images"][0]["width"] = 47
    (toy / "train.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="0.jpg: the image is 48 x 64 pixels"):
        require_sizes(read_coco(toy / "train.json", toy).scenes)


@pytest.mark.parametrize("command", ["finetune", "evaluate"])
def test_a_mistake_in_labels_is_told_without_torch(toy, command):
    """So in a second; torch alone takes more."""
    (toy / "val.json").write_text('{"images": []}')
    given = words(toy) if command == "finetune" else ["evaluate", "--detector", "d", "--val", str(toy / "val.json"), "--images", str(toy), "--out", "o"]
    code = "import sys\nfrom mcl.cli import main\ncode = main(sys.argv[1:])\nassert 'torch' not in sys.modules\nsys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True)
    assert done.returncode == 2 and "val.json: the list 'images' is empty" in done.stderr and done.stderr.count("\n") == 1


def test_skipped_images_are_told_at_the_end(tmp_path, capsys):
    photos = picture_folder(tmp_path / "photos", 20)
    (photos / "0007.jpg").write_bytes(b"no picture")
    run = tmp_path / "run"
    assert main(["pretrain", *TINY, "--data", str(photos), "--out", str(run), "--schedule.steps", "3", "--loop.workers", "0"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert f"1 of 20 images could not be read and were skipped: {run / 'skipped.txt'}" in told[-3:]


def test_eighty_columns_hold_all_but_the_levels():
    values = {"loss": 12.345, "lr": 1.2e-5, "images_per_second": 1234.5, "data_wait": 0.12, **{f"loss/p{n}": 12.345 for n in (2, 3, 4, 5)}}
    line = describe(values, 12 * 3600)
    assert line.index("data wait 12%") + len("data wait 12%") < 80 and line.index(" left") + 5 <= 80
    assert line.endswith("(p2 12.345, p3 12.345, p4 12.345, p5 12.345)")


def test_messages_name_flags_that_exist():
    """What stands in brackets after a reason is how to mend it."""
    known = {name for name, _ in flat_fields(PretrainSettings)} | {"max_missing"}
    source = Path(mcl.__file__).parent / "data"
    named = {flag for file in source.rglob("*.py") for flag in re.findall(r"[\"'( ]--([a-z_]+)\b", file.read_text())}
    assert {"max_unreadable", "max_missing", "max_pixels", "data_root", "data_cache", "data_column"} <= named <= known | {"views"}


@pytest.mark.parametrize("group", ["data", "bench"])
def test_a_group_of_commands_has_its_help(group, capsys):
    assert main([group, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: mcl {group} COMMAND") and f"  {group} " in shown and "pretrain " not in shown


def test_python_shows_commands_and_settings():
    assert {"pretrain", "finetune", "evaluate", "load_trunk"} <= set(dir(mcl))
    shown = inspect.getdoc(mcl.pretrain)
    assert "optim.lr (default 1.0): Peak learning rate" in " ".join(shown.split()) and "method.name" in shown
    parameters = inspect.signature(mcl.pretrain).parameters
    assert parameters["data"].default is inspect.Parameter.empty and parameters["batch"].default == 128


def test_no_room_is_told_before_the_first_step(tmp_path, capsys, monkeypatch):
    photos = picture_folder(tmp_path / "photos", 12)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(space.shutil, "disk_usage", lambda path: usage(10**9, 0, 10**6))
    given = ["pretrain", *TINY, "--data", str(photos), "--out", str(tmp_path / "run"), "--schedule.steps", "2", "--loop.workers", "0"]
    assert main(given) == 3
    error = capsys.readouterr().err
    assert "0.00 GB are free there and about " in error and error.count("\n") == 1
    monkeypatch.undo()
    assert main(given) == 0  # nothing of the first try stands in its way


@pytest.mark.parametrize(("rule", "kept"), [(torch.optim.AdamW, 2), (torch.optim.SGD, 1)])
def test_a_checkpoints_size_counts_the_momenta_to_come(rule, kept):
    layer = torch.nn.Linear(10, 10, bias=False)
    optimizer = rule(layer.parameters(), lr=0.1)
    assert space.checkpoint_bytes({"a": layer.state_dict()}, optimizer) == 400 * (1 + kept)


def test_one_gpu_of_several_can_be_named(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    settings = LoopSettings(device="cuda:1")
    assert prepare_device(settings) == torch.device("cuda", 1) and taken == [1] and device_type(settings) == "cuda"
    with pytest.raises(UserError, match="--loop.device cuda:2: torch sees 2 GPU"):
        prepare_device(LoopSettings(device="cuda:2"))


def test_a_device_that_is_none(capsys):
    assert main(["pretrain", "--data", "d", "--out", "o", "--loop.device", "cuda1"]) == 2
    assert "--loop.device: must be auto, cpu, cuda or cuda:NUMBER, got 'cuda1'" in capsys.readouterr().err
