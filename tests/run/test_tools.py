"""mcl recipes, schema, completion, push, --dry_run: what helps around a training."""

from __future__ import annotations

import json
import subprocess
import sys
import types

import pytest
import yaml

import mcl
from detect.conftest import write_toy
from images import picture_folder
from mcl.cli import main
from mcl.config.base import flat_fields, from_values, recipe_names
from mcl.config.finetune import FinetuneSettings
from mcl.config.pretrain import PretrainSettings
from mcl.config.schema import file_schema
from mcl.methods.flops import step_flops
from mcl.run.commands import COMMANDS
from mcl.run.completion import bash_script, fish_script, settings_of
from mcl.run.recipes import text_of
from tiny import TINY


def test_recipes_are_listed_shown_and_compared(capsys):
    listed = mcl.recipes()["recipes"]
    assert list(listed) == recipe_names() and all(listed.values())
    capsys.readouterr()
    assert main(["recipes", "mcl-r18-64"]) == 0
    assert capsys.readouterr().out.rstrip() == text_of("mcl-r18-64").rstrip()
    found = mcl.recipes(names=["mcl-r18-64", "mcl-r18-128"])["differences"]
    assert found["image_size"] == {"mcl-r18-64": 64, "mcl-r18-128": 128} and "optim.lr" not in found
    assert all(len(set(map(str, row.values()))) > 1 for row in found.values())


def test_recipes_of_two_commands_have_nothing_to_compare(capsys):
    assert main(["recipes", "mcl-r18-64", "finetune-small"]) == 2
    assert "finetune-small is for mcl finetune" in capsys.readouterr().err
    assert main(["recipes", "mcl-r18"]) == 2 and "did you mean" in capsys.readouterr().err


def defined(schema, reference):
    return schema["$defs"][reference["$ref"].removeprefix("#/$defs/")] if "$ref" in reference else reference


@pytest.mark.parametrize("command", [PretrainSettings, FinetuneSettings])
def test_the_schema_knows_every_setting_of_every_kind(command):
    schema = file_schema(command, "x")
    assert "required" not in schema and schema["additionalProperties"] is False
    for name, _ in flat_fields(command):
        section, _, leaf = name.rpartition(".")
        if name == "config" or section in {choice.section for choice in command.choices}:
            continue
        where = defined(schema, schema["properties"][section])["properties"] if section else schema["properties"]
        assert leaf in where, name
    for choice in command.choices:
        options = [defined(schema, option) for option in schema["properties"][choice.section]["anyOf"]]
        for option, name in zip(options, choice.names(), strict=True):
            assert option["properties"]["name"]["const"] == name
            assert set(option["properties"]) == set(choice.settings_of(name).model_fields)
            assert option["required"] == ([] if name == choice.default else ["name"])


def test_the_schema_is_printed_and_written(tmp_path, capsys):
    assert main(["schema", "pretrain"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert main(["schema", "pretrain", "--out", str(tmp_path / "s.json")]) == 0
    assert json.loads((tmp_path / "s.json").read_text()) == printed
    references = {text for text in json.dumps(printed).split('"') if text.startswith("#/$defs/")}
    assert {reference.removeprefix("#/$defs/") for reference in references} <= set(printed["$defs"])


def complete(script, *words: str) -> list[str]:
    """What bash would offer for the last word."""
    code = f'source {script}; COMP_WORDS=({" ".join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}; _mcl; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "--norc", "-c", code], capture_output=True, text=True, check=True)
    assert not done.stderr
    return done.stdout.split()


def test_bash_completes_commands_settings_and_values(tmp_path):
    script = tmp_path / "mcl.bash"
    script.write_text(bash_script(COMMANDS, "bash"))
    assert complete(script, "mcl", "pre") == ["pretrain", "predict"] or set(complete(script, "mcl", "pre")) == {"pretrain", "predict"}
    assert "demo" in complete(script, "mcl", "data", "") and "pretrain" not in complete(script, "mcl", "data", "")
    assert complete(script, "mcl", "pretrain", "--optim.l") == ["--optim.lr", "--optim.lr_batch"]
    assert complete(script, "mcl", "pretrain", "--recipe", "mcl-r18") == ["mcl-r18-128", "mcl-r18-64"]
    assert set(complete(script, "mcl", "finetune", "--recipe", "")) == set(recipe_names("finetune"))
    assert complete(script, "mcl", "finetune", "--masks", "r") == ["require"]
    assert complete(script, "mcl", "pretrain", "--method.name", "swa") == ["swav"]
    assert complete(script, "mcl", "data", "demo", "--unlabeled_s") == ["--unlabeled_scenes"]


def test_every_setting_of_every_kind_is_completed():
    found = settings_of(PretrainSettings)
    assert {"method.prototypes", "method.temperature"} <= set(found) and found["resume"][0] == ["true", "false"]
    assert found["optim.name"][0] == ["lars", "sgd", "adamw"] and found["optim.lr"][0] == []
    fish = fish_script(COMMANDS)
    assert "-l optim.lr " in fish and "-xa 'lars sgd adamw'" in fish


def test_the_shell_is_asked_for(capsys):
    assert main(["completion"]) == 2 and "give bash, zsh or fish" in capsys.readouterr().err
    for shell in ("bash", "zsh", "fish"):
        assert main(["completion", shell]) == 0 and "mcl" in capsys.readouterr().out


class Hub:
    """What of huggingface_hub is used."""

    calls: list = []

    def create_repo(self, repository, private, exist_ok):
        self.calls.append((repository, private, exist_ok))

    def upload_folder(self, repo_id, folder_path, commit_message, allow_patterns):
        self.calls.append((repo_id, folder_path, commit_message, sorted(allow_patterns)))
        return types.SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")


@pytest.fixture
def hub(monkeypatch):
    Hub.calls = []
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(HfApi=Hub))
    return Hub


def timm_folder(path):
    path.mkdir()
    (path / "config.json").write_text('{"architecture": "resnet18"}')
    (path / "model.safetensors").write_bytes(b"x")
    (path / "secret.txt").write_text("not to be pushed")
    return path


def test_push_puts_a_timm_folder_on_the_hub(hub, tmp_path, capsys):
    folder = timm_folder(tmp_path / "timm")
    assert main(["push", str(folder), "--to", "me/backbone", "--private"]) == 0
    assert "resnet18 is at https://hub/me/backbone/commit/1" in capsys.readouterr().out
    files = ["README.md", "config.json", "model.safetensors"]
    assert hub.calls == [("me/backbone", True, True), ("me/backbone", str(folder), "Backbone pre-trained with mcl", files)]


def test_push_refuses_what_it_cannot_push(hub, tmp_path, capsys, monkeypatch):
    assert main(["push", str(tmp_path), "--to", "me/backbone"]) == 2
    assert "has no config.json, model.safetensors; give a folder that mcl export --to timm wrote" in capsys.readouterr().err
    assert main(["push", str(tmp_path), "--to", "backbone"]) == 2 and "--to" in capsys.readouterr().err
    assert hub.calls == []

    def no_token(*_, **__):
        raise RuntimeError("401 Client Error\n\x1b[1mInvalid token")

    monkeypatch.setattr(hub, "create_repo", no_token)
    assert main(["push", str(timm_folder(tmp_path / "timm")), "--to", "me/backbone"]) == 3
    error = capsys.readouterr().err
    assert "--to me/backbone: the hub refuses: 401 Client Error" in error and error.count("\n") == 1 and "\x1b" not in error
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(["push", str(tmp_path / "timm"), "--to", "me/backbone"]) == 2
    assert "pip install 'mcl[hub]'" in capsys.readouterr().err


def test_a_dry_run_of_pretraining_tells_cost_and_writes_nothing(tmp_path, capsys):
    photos = picture_folder(tmp_path / "photos", 20)
    given = {"data": photos, "out": tmp_path / "run", "schedule.steps": 7}
    words = [*TINY, *(word for key, value in given.items() for word in (f"--{key}", str(value)))]
    assert main(["pretrain", *words, "--dry_run"]) == 0
    shown = capsys.readouterr().out
    assert not (tmp_path / "run").exists() and "steps    7 of 8 images (56 in all)" in shown
    settings = yaml.safe_load(shown.partition("\n\nsteps ")[0][shown.index("recipe:") :]) if "recipe:" in shown else {}
    assert settings.get("batch", 8) == 8
    for word in ("FLOPs    ", "memory   ", "time     about ", "nothing was written"):
        assert word in shown
    told = mcl.pretrain(**given, **{word[2:].split("=")[0]: word.split("=")[1] for word in TINY}, dry_run=True)
    counted = from_values(PretrainSettings, {**given, **dict(word[2:].split("=") for word in TINY)})
    assert told["flops_a_step"] == pytest.approx(sum(step_flops(counted).values()), rel=0.02)
    assert told["seconds"] == pytest.approx(7 * told["seconds_a_step"]) and told["memory_mb"] > 0


def test_a_dry_run_of_fine_tuning_tells_cost_and_writes_nothing(tmp_path, capsys):
    for name, count in (("train", 6), ("val", 3)):
        write_toy(tmp_path, name, count, seed=1)
    words = [
        "finetune", "--trunk", "none", "--model.backbone", "test_resnet", "--model.pyramid_channels", "16", "--model.head_convs",
        "1", "--image_size", "64", "--batch", "4", "--schedule.epochs", "3", "--detector.fc_channels", "16", "--loop.threads", "1",
        "--train", str(tmp_path / "train.json"), "--val", str(tmp_path / "val.json"), "--images", str(tmp_path),
        "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    assert main([*words, "--dry_run"]) == 0
    shown = capsys.readouterr().out
    assert not (tmp_path / "run").exists() and "nothing was written" in shown and "of 4 images" in shown
    assert "3 classes" in shown and "fc_channels: 16" in shown
