"""A setting that would not be used is refused, and so is another command's recipe."""

from __future__ import annotations

import importlib

import pytest

import mcl
from mcl.config.base import Command, flat_fields, from_arguments, from_values
from mcl.config.finetune import FinetuneSettings
from mcl.config.pretrain import PretrainSettings
from mcl.errors import UserError
from mcl.run.commands import COMMANDS

SCENES = ["--train", "a", "--val", "b", "--images", "c", "--out", "d"]
LINES = {
    "pretrain": (PretrainSettings, ["--data", "a", "--out", "b"]),
    "finetune": (FinetuneSettings, ["--trunk", "runs/r", *SCENES]),
    "scratch": (FinetuneSettings, ["--trunk", "none", *SCENES]),
}


def parse(line, *words):
    command, given = LINES[line]
    return from_arguments(command, [*given, *words], "mcl")


@pytest.mark.parametrize(
    ("line", "words", "partner"),
    [
        ("finetune", ["--model.backbone", "resnet18"], "--trunk none"),
        ("finetune", ["--model.head_convs", "4"], "--trunk none"),
        ("scratch", ["--like", "x", "--model.backbone", "resnet18"], "--like"),
        ("scratch", ["--parts", "backbone"], "--trunk"),
        ("finetune", ["--feature_dtype", "float32"], "--freeze trunk"),
        ("finetune", ["--views.long_side", "900"], "--views.short_sides"),
        ("finetune", ["--loop.compile"], "mcl pretrain"),
        ("finetune", ["--optim.name", "sgd", "--optim.betas", "0.8,0.9"], "--optim.name adamw"),
        ("finetune", ["--allow_changed"], "--resume"),
        ("pretrain", ["--init_parts", "backbone"], "--init_from"),
        ("pretrain", ["--watch.knn_data", "x"], "--watch.knn_every"),
        ("pretrain", ["--optim.momentum", "0.8"], "--optim.name lars and sgd"),
        ("pretrain", ["--schedule.decay", "constant", "--schedule.final_lr", "0"], "--schedule.decay cosine"),
        ("pretrain", ["--schedule.milestones", "0.5"], "--schedule.decay multistep"),
    ],
)
def test_what_would_not_be_used_is_refused(line, words, partner):
    with pytest.raises(UserError, match="^[^\n]*$") as error:
        parse(line, *words)
    setting = words[-2] if not words[-1].startswith("--") else words[-1]
    assert str(error.value).startswith(f"{setting}: is not used: ") and partner in str(error.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("scratch", ["--model.backbone", "resnet18"]),
        ("finetune", ["--optim.name", "sgd"]),  # the recipe's own are for another rule
        ("finetune", ["--resume", "--allow_changed"]),
        ("pretrain", ["--schedule.decay", "multistep", "--schedule.milestones", "0.5"]),
        ("pretrain", ["--watch.knn_every", "5", "--watch.knn_images", "50"]),
    ],
)
def test_what_is_used_is_taken(line, words):
    assert parse(line, *words)


def test_keywords_are_looked_at_as_flags_are():
    with pytest.raises(UserError, match="--model.backbone: is not used"):
        mcl.finetune(trunk="runs/r", train="a", val="b", images="c", out="d", model={"backbone": "resnet18"})


@pytest.mark.parametrize(("line", "recipe", "owner"), [("pretrain", "finetune-small", "finetune"), ("scratch", "mcl-r18-64", "pretrain")])
def test_another_commands_recipe_is_refused(line, recipe, owner, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"recipe: {recipe}\n")
    for words in (["--recipe", recipe], ["--config", str(file)]):
        with pytest.raises(UserError) as error:
            parse(line, *words)
        shown = str(error.value)
        assert shown.startswith(f"--recipe {recipe}: is a recipe of mcl {owner}; there are: ") and shown.count(recipe) == 1


def test_rules_name_settings_that_exist():
    for module, settings, *_ in COMMANDS.values():
        command: type[Command] = getattr(importlib.import_module(module), settings)
        names = {name for name, _ in flat_fields(command)}
        for rule in command.only_with:
            assert rule.setting in names | set(command.model_fields)


def test_saved_settings_are_taken_back_whole(tmp_path):
    """A config.yaml holds every setting, also those that its run did not use."""
    saved = tmp_path / "config.yaml"
    saved.write_text("trunk: runs/r\nmodel: {backbone: resnet18}\n")
    assert parse("finetune", "--config", str(saved)).model.backbone == "resnet18"
    assert from_values(FinetuneSettings, {"config": saved, "train": "a", "val": "b", "images": "c", "out": "d"})
