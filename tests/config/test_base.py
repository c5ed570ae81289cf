"""Layers of settings, and what a user is told about a mistake."""

from __future__ import annotations

import importlib
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mcl.config.base import dump, flat_fields, from_arguments, from_values, recipe_command, recipe_names
from mcl.config.finetune import FinetuneSettings
from mcl.config.pretrain import PretrainSettings
from mcl.errors import UserError
from mcl.run.commands import COMMANDS

GIVEN = ["--data", "photos", "--out", "run"]


def parse(*words: str) -> PretrainSettings:
    return from_arguments(PretrainSettings, [*GIVEN, *words], "mcl pretrain")


def test_command_line_over_file_over_recipe_over_defaults(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("recipe: mcl-r18-128\noptim: {lr: 0.5}\nbatch: 7\n")
    settings = parse("--config", str(file), "--batch", "9")
    assert settings.batch == 9, "command line"
    assert settings.optim.lr == 0.5, "file"
    assert settings.image_size == 128 and settings.optim.name == "adamw", "recipe that the file names"
    assert settings.views.flip == 0.5, "default"


def test_saved_settings_give_the_same_settings_back(tmp_path):
    settings = parse("--optim.lr", "0.125", "--method.montages", "2=3", "--views.crop_scale", "[0.3,0.9]")
    (tmp_path / "config.yaml").write_text(dump(settings))
    again = from_values(PretrainSettings, {"config": tmp_path / "config.yaml"})
    assert yaml.safe_load(dump(again)) == yaml.safe_load(dump(settings))


@pytest.mark.parametrize("words", [["--schedule.steps", "5"], ["--schedule.epochs", "2"]])
def test_a_length_given_replaces_the_recipes(words):
    schedule = parse(*words).schedule
    assert (schedule.steps, schedule.epochs) in ((5, None), (None, 2.0))


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["--overwrite"], True), (["--overwrite", "true"], True), (["--overwrite=false"], False), (["--no-overwrite"], False), ([], False)],
)
def test_switches(words, expected):
    assert parse(*words).overwrite is expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "auto"), (["--loop.channels_last"], True), (["--loop.channels_last", "auto"], "auto"),
        (["--no-loop.channels_last"], False), (["--loop.channels_last", "false"], False), (["--loop.channels-last=true"], True),
    ],
)  # fmt: skip
def test_a_switch_may_be_left_to_the_machine(words, expected):
    assert parse(*words).loop.channels_last is expected or parse(*words).loop.channels_last == expected == "auto"


def test_dashes_underscores_and_none():
    settings = parse("--image-size", "96", "--optim.clip-norm", "none", "--max-unreadable=0.5")
    assert settings.image_size == 96 and settings.optim.clip_norm is None and settings.max_unreadable == 0.5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--optim.lr", "-1"], "--optim.lr: must be greater than 0, got '-1'"),
        (["--optim.lr", "fast"], "--optim.lr: must be a valid number"),
        (["--optim.lr", "inf"], "--optim.lr: must be a finite number, got 'inf'"),
        (["--optim.betas", "[0.9,NaN]"], "--optim.betas.1: must be a finite number"),
        (["--optim.name", "lasr"], "did you mean 'lars'"),
        (["--loop.channels_last=maybe"], "--loop.channels_last: must be true, false or 'auto', got 'maybe'"),
        (["--optim.lrr", "1"], "did you mean 'optim.lr'"),
        (["--warmup_steps", "1"], "did you mean 'schedule.warmup_steps'"),
        (["--method.assignment", "al"], "did you mean 'all'"),
        (["--method.target_canvases", "full", "--method.assignment", "all"], "use all, or assignment=top"),
        (["--schedule.steps", "1", "--schedule.epochs", "1"], "not both"),
        (["--batch"], "expected one argument"),
        (["surplus"], "unexpected argument 'surplus'"),
    ],
)
def test_mistakes_on_the_command_line(words, message):
    with pytest.raises(UserError, match="^[^\n]*$") as caught:
        parse(*words)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("optim: {lrr: 1}", "did you mean 'optim.lr'"), ("batch: many", "batch: must be a valid integer"),
     ("- 1", "expected 'setting: value' lines"), ("a: [", "not valid YAML"), ("\ud800", "not valid YAML")],
)  # fmt: skip
def test_mistakes_in_a_file_name_the_file(tmp_path, text, message):
    file = tmp_path / "mine.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match="mine.yaml") as caught:
        parse("--config", str(file))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_every_recipe_is_valid_for_its_command():
    assert recipe_names()
    for name in recipe_names():
        if recipe_command(name) == "finetune":
            from_values(FinetuneSettings, {"recipe": name, "trunk": "none", "train": "a", "val": "b", "images": "c", "out": "d"})
        else:
            from_values(PretrainSettings, {"recipe": name, "data": "a", "out": "b"})


def test_every_command_shows_its_help():
    for name in COMMANDS:
        shown = subprocess.run([sys.executable, "-m", "mcl", *name.split(), "--help"], capture_output=True, text=True)
        assert shown.returncode == 0 and f"usage: mcl {name}" in shown.stdout, shown.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [(["pretain"], "did you mean 'pretrain'"), (["data", "tree"], "did you mean 'trees'"), (["data"], "give one of")],
)
def test_unknown_commands(words, message):
    shown = subprocess.run([sys.executable, "-m", "mcl", *words], capture_output=True, text=True)
    assert shown.returncode == 2 and message in shown.stderr and shown.stderr.count("\n") == 1


def test_the_reference_is_up_to_date():
    from mcl.run.reference import reference

    written = Path(__file__).parents[2] / "docs" / "reference.md"
    assert written.read_text("utf-8") == reference(), "run: python -m mcl.run.reference > docs/reference.md"


def test_importing_mcl_is_quick_and_its_twins_are_all_there():
    code = "import sys, mcl; assert 'torch' not in sys.modules; [getattr(mcl, name) for name in mcl.__all__]"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_commands_function_can_be_imported(name):
    _, _, module, function, _ = COMMANDS[name]
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("wrong", [math.inf, -math.inf, math.nan])
def test_no_number_of_any_command_may_be_infinite(name, wrong):
    module, settings, *_ = COMMANDS[name]
    command = getattr(importlib.import_module(module), settings)
    accepted = []
    for setting, field in flat_fields(command):
        if not re.search(r"\bfloat\b", str(field.annotation)):
            continue
        several = "list[" in str(field.annotation) or "tuple[" in str(field.annotation)
        try:
            from_values(command, {setting: [wrong, wrong] if several else wrong})
        except UserError as error:
            if re.search(rf"{re.escape(setting)}\S*: must be a finite number", str(error)):
                continue
        accepted.append(setting)
    assert accepted == []
