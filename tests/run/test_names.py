"""Names that come from outside are text: they are shown as they are, steer no terminal and break no line."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console
from rich.table import Table
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from detect.conftest import write_toy
from mcl.cli import main
from mcl.detect.figure import Mark
from mcl.engine import logging
from mcl.engine.logging import Display, Metrics
from mcl.engine.run_folder import RunFolder
from mcl.run.evaluate import numbers_table
from mcl.studies.figures import draw_figures

NAMES = ["a [/b]", "fish [juvenile]", "fish\x1b[31m :fish:\nline"]
SHOWN = ["a [/b]", "fish [juvenile]", r"fish\x1b[31m :fish:\nline"]


@pytest.fixture
def terminal(monkeypatch):
    """What a terminal of 100 columns would be sent."""
    sent = io.StringIO()
    console = type(logging.console)(
        file=sent, force_terminal=True, width=100, highlight=False, markup=False, emoji=False, soft_wrap=True, no_color=True
    )
    assert isinstance(console, Console)
    monkeypatch.setattr(logging, "console", console)
    return sent


def numbers_of(names):
    per_class = {name: 0.5 - 0.1 * place for place, name in enumerate(names)}
    return {"images": 3, "class_agnostic_AP": 0.5, "bbox": {"AP": 0.5, "by_iou": {}, "per_class": per_class}, "instances": dict.fromkeys(names, 7)}


def test_the_table_of_classes_shows_their_names(terminal):
    logging.console.print(numbers_table(numbers_of([*NAMES, "fish [adult]"])))
    sent = terminal.getvalue()
    for name in [*SHOWN, "fish [adult]"]:
        assert f"AP {name} " in sent
    assert "\x1b[31m" not in sent


@pytest.mark.parametrize("shown", ["[/b]", "[bold]x[/bold]", ":fish:", "\x1b[2J"])
def test_no_line_and_no_cell_is_markup(terminal, shown):
    table = Table(title=shown)
    table.add_column(shown)
    table.add_row(shown)
    logging.console.print(shown)
    logging.console.print(table)
    with Display("train", 4, 0) as display:
        display.log(1, shown)
        display.say(shown)
    text = shown.replace("\x1b", r"\x1b")
    assert terminal.getvalue().count(text) >= 5 and "\x1b[2J" not in terminal.getvalue().replace("\x1b[2K", "")


def test_tags_of_tensorboard_have_no_control_characters(tmp_path):
    metrics = Metrics(RunFolder(tmp_path), 0, tensorboard=True)
    metrics.write(1, {f"AP/{name}": 0.5 for name in NAMES})
    metrics.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == sorted(f"AP/{name}" for name in SHOWN)


def test_fine_tuning_on_such_classes_ends_well(tmp_path, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr("mcl.detect.figure.Mark", lambda *given: drawn.append(given[1]) or Mark(*given))
    for name in ("train", "val"):
        path = write_toy(tmp_path, name, 4, seed=1)
        content = json.loads(path.read_text())
        for category, name in zip(content["categories"], NAMES, strict=True):
            category["name"] = name
        path.write_text(json.dumps(content))
    words = [
        "--trunk", "none", "--model.backbone", "test_resnet", "--model.pyramid_channels", "16", "--model.head_convs", "1",
        "--train", str(tmp_path / "train.json"), "--val", str(tmp_path / "val.json"), "--images", str(tmp_path),
        "--image_size", "64", "--batch", "2", "--schedule.steps", "1", "--loop.workers", "0", "--loop.tensorboard", "false",
        "--precise_bn_images", "0", "--detector.fc_channels", "16", "--loop.threads", "1",
    ]  # fmt: skip
    assert main(["finetune", *words, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in SHOWN) and "\x1b" not in said
    assert (tmp_path / "run/summary.json").exists()
    assert json.loads((tmp_path / "run/eval.json").read_text())["bbox"]["per_class"].keys() == set(NAMES)
    assert drawn and all(text.isprintable() for text in drawn)


def test_names_in_figures_are_no_formulas(tmp_path):
    pytest.importorskip("matplotlib")
    row = {
        "data": "$a_{$ ^", "start": "$\\frac{$", "labels": 5, "freeze": "none", "budget": None, "curve": None,
        "box_AP": [0.1, 0.0, 0.2], "seeds": 1, "pretrain_seeds": 1,
    }  # fmt: skip
    assert [path.exists() for path in draw_figures({"rows": [row, {**row, "labels": 9}]}, tmp_path)] == [True]
