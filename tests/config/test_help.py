"""``--help`` shows what would be used, few settings at first, and forms that are taken as they are shown."""

from __future__ import annotations

import importlib
import re
from typing import get_args, get_origin

import pytest
from pydantic_core import PydanticUndefined

from mcl.cli import main
from mcl.config.base import flat_fields, from_arguments, is_by_place, recipe_names, used_values
from mcl.config.finetune import FinetuneSettings
from mcl.config.help import FEW, form_of, help_text, help_topic, shown_value
from mcl.config.pretrain import PretrainSettings
from mcl.errors import UserError
from mcl.run.commands import COMMANDS

REQUIRED = {
    PretrainSettings: ["--data", "photos", "--out", "run"],
    FinetuneSettings: ["--trunk", "run", "--train", "a", "--val", "b", "--images", "c", "--out", "d"],
}


def settings_of(name: str):
    module, settings, *_ = COMMANDS[name]
    return getattr(importlib.import_module(module), settings)


def shown(capsys, *words: str) -> str:
    assert main(list(words)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "recipe"), [(command, recipe) for command in REQUIRED for recipe in (None, *recipe_names(command.recipes_of))]
)
def test_the_values_shown_are_those_that_would_be_used(command, recipe):
    words = ["--recipe", recipe] if recipe else []
    _, used = used_values(command, words)
    settings = from_arguments(command, [*REQUIRED[command], *words], "mcl x")
    checked = 0
    for name, (value, origin) in used.items():
        now = settings
        for part in name.split("."):
            now = getattr(now, part)
        if value is PydanticUndefined or name == "recipe":
            continue
        assert shown_value(now) == shown_value(value), name
        checked += bool(origin)
    assert checked > 5, "some are the recipe's"


def test_the_default_recipe_and_another(capsys):
    first = shown(capsys, "pretrain", "--help")
    assert "timm name" in first and "[resnet18*]" in first and "from recipe mcl-r18-64" in first and "resnet50" not in first.split("In brackets")[0]
    assert "[adamw*]" in shown(capsys, "pretrain", "--help", "optim")
    second = " ".join(shown(capsys, "pretrain", "--recipe", "mcl-r50-imagenet", "--help").split())
    assert "[resnet50" in second and "from recipe mcl-r50-imagenet" in second and "[4096*]" in second


def test_a_file_counts_as_it_would(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("batch: 7\nmethod: {name: byol}\n")
    told = shown(capsys, "pretrain", "--config", str(tmp_path / "mine.yaml"), "--help")
    assert "[7*]" in told and "mine.yaml" in told and "[byol*]" in told


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_short_and_says_how_to_see_the_rest(name, capsys):
    command = settings_of(name)
    told, every = (shown(capsys, *name.split(), "--help", *more) for more in ((), ("all",)))
    fields = list(flat_fields(command))
    settings = re.findall(r"^  (?:--)?[\w.]+(?= |$)", told, re.M)
    assert told.startswith(f"usage: mcl {name}") and len(told.splitlines()) < 75 and len(settings) <= 20
    assert all(len(line) <= 110 for line in every.splitlines() if "--" not in line)
    if len(fields) > FEW:
        assert len(command.common) > 7 and {*command.common} <= {flag for flag, _ in fields}
        assert f"mcl {name} --help all" in told and len(settings) < len(fields)
    for flag, field in fields:
        assert re.search(rf"^  {flag.upper() if is_by_place(field) else '--' + re.escape(flag)}( |$)", every, re.M), flag


@pytest.mark.parametrize(("topic", "there", "not_there"), [
    ("optim", "--optim.betas", "--optimise"), ("schedule", "--schedule.steps", "--optim.lr"), ("general", "--accumulate", "--loop.workers"),
    ("optim.lr", "--optim.lr X", "--optim.lr_batch"), ("image-size", "--image_size", "--batch"), ("--batch", "--batch", "--seed"),
])  # fmt: skip
def test_a_group_or_a_setting(topic, there, not_there, capsys):
    told = shown(capsys, "pretrain", f"--help={topic}")
    entries = [line for line in told.splitlines() if line.startswith("  --")]
    assert any(line.startswith(f"  {there}") for line in entries) and not any(line.startswith(f"  {not_there} ") for line in entries)


def test_settings_of_another_method(capsys):
    told = shown(capsys, "pretrain", "--method.name", "swav", "--help", "method")
    assert "--method.prototypes" in told and "--method.scales" not in told and "--method.name NAME --help method" in told


def test_an_unknown_topic_is_one_line_with_the_nearest(capsys):
    assert main(["pretrain", "--help", "optm"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "did you mean 'optim'" in told and "schedule" in told
    assert main(["pretrain", "--recipe", "mcl-r18-6", "--help"]) == 2
    assert "did you mean 'mcl-r18-64'" in capsys.readouterr().err


def test_where_the_help_is_asked_for():
    assert help_topic(["--batch", "8"]) is None and help_topic(["-h"]) == "" and help_topic(["--help", "--batch", "8"]) == ""
    assert help_topic(["--batch", "8", "--help", "optim"]) == "optim" and help_topic(["--help=optim"]) == "optim"


@pytest.mark.parametrize("width", [60, 80, 200])
def test_lines_keep_to_the_terminal(width):
    told = help_text(PretrainSettings, [], "all", "mcl pretrain", width)
    described = [line for line in told.splitlines() if not line.startswith("  --")]
    assert max(map(len, described)) <= min(width, 110)


@pytest.mark.parametrize("command", REQUIRED)
def test_lists_are_shown_in_a_form_that_is_taken(command):
    _, used = used_values(command, [])
    seen = []
    for name, field in flat_fields(command):
        several = any(get_origin(option) in (list, tuple, dict) for option in (field.annotation, *get_args(field.annotation)))
        if several:
            seen.append(name)
            given = form_of(field, used[name][0])
            assert re.search(r"\d", given) or field.examples, name
            try:
                from_arguments(command, [*REQUIRED[command], f"--{name}", given], "mcl x")
            except UserError as error:  # read, and then found to do nothing with the other settings
                assert "is not used" in str(error)
    assert len(seen) >= 4


@pytest.mark.parametrize(("yes", "no"), [("true", "false"), ("yes", "no"), ("on", "off"), ("1", "0"), ("YES", "No")])
def test_words_for_true_and_false(yes, no):
    for given, meant in ((yes, True), (no, False)):
        words = ["--overwrite", given, f"--loop.compile={given}", "--loop.channels_last", given, "--batch", "9"]
        settings = from_arguments(PretrainSettings, [*REQUIRED[PretrainSettings], *words], "mcl x")
        assert [settings.overwrite, settings.loop.compile, settings.loop.channels_last] == [meant] * 3 and settings.batch == 9


def test_another_word_is_answered_with_those_that_are_taken():
    with pytest.raises(UserError, match=r"--overwrite: must be true or false, got 'maybe'"):
        from_arguments(PretrainSettings, [*REQUIRED[PretrainSettings], "--overwrite", "maybe"], "mcl x")


def test_a_word_that_has_a_place_is_not_taken_for_a_switchs_value():
    settings = from_arguments(settings_of("compare"), ["--dry_run", "study.yaml"], "mcl compare")
    assert settings.dry_run is True and str(settings.study) == "study.yaml"
    settings = from_arguments(settings_of("compare"), ["--figures", "no", "study.yaml"], "mcl compare")
    assert settings.figures is False and str(settings.study) == "study.yaml"
