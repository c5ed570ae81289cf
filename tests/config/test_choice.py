"""``--method.name`` decides which settings ``--method.*`` has, wherever it is given."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mcl.config.base import dump, from_arguments, from_dump, from_values
from mcl.config.bench import BenchStepSettings
from mcl.config.pretrain import PretrainSettings
from mcl.errors import UserError
from mcl.methods.byol.settings import ByolSettings
from mcl.methods.mcl.settings import MclSettings
from mcl.run.resume import differences, is_default

GIVEN = ["--data", "a", "--out", "b"]


def parse(*words: str) -> PretrainSettings:
    return from_arguments(PretrainSettings, [*GIVEN, *words], "mcl pretrain")


def test_the_name_decides_wherever_it_is_given(tmp_path):
    assert isinstance(parse().method, MclSettings)
    for words in (["--method.name", "byol"], ["--method.name=byol"]):
        assert isinstance(parse(*words, "--method.hidden", "64").method, ByolSettings)
    file = tmp_path / "c.yaml"
    file.write_text("method:\n  name: byol\n  hidden: 64\n")
    assert parse("--config", str(file)).method.hidden == 64
    assert isinstance(from_values(PretrainSettings, {"data": "a", "out": "b", "method": {"name": "byol"}}).method, ByolSettings)


def test_another_methods_settings_of_a_recipe_or_file_do_not_count(tmp_path):
    assert parse("--recipe", "mcl-r18-64").method.temperature == 0.2
    assert parse("--recipe", "mcl-r18-64", "--method.name", "byol").batch == 96
    file = tmp_path / "c.yaml"
    file.write_text("batch: 7\nmethod: {name: byol, hidden: 64}\n")
    mixed = parse("--config", str(file), "--method.name", "mcl")
    assert mixed.batch == 7 and isinstance(mixed.method, MclSettings)


def test_a_saved_config_gives_the_same_settings(tmp_path):
    settings = parse("--method.name", "byol", "--method.hidden", "64")
    (tmp_path / "config.yaml").write_text(dump(settings))
    again = from_values(PretrainSettings, {"config": tmp_path / "config.yaml"})
    assert again.method == settings.method and "name: byol" in dump(settings)


def test_bench_settings_go_to_another_process_and_back():
    settings = from_values(BenchStepSettings, {"method.name": "byol", "method.hidden": 64, "json": "x.json"})
    again = from_dump(BenchStepSettings, settings.model_dump(mode="json", by_alias=True))
    assert again.method == settings.method and again == type(again)(**settings.model_dump(by_alias=True))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--method.name", "byo"], r"--method.name: no method 'byo' \(did you mean 'byol'\?\); there are: mcl, "),
        (["--method.name", "byol", "--method.scales", "1,2"], r"'--method.scales'; it is a setting of mcl, mae, not of byol"),
        (["--method.name", "byol", "--method.momentun", "1"], r"did you mean 'method.momentum'\?"),
        (["--method.name", "byol", "--method.hidden", "1"], "--method.hidden: must be greater than or equal to 8"),
    ],
)
def test_mistakes_are_one_line(words, told):
    with pytest.raises(UserError, match=told) as caught:
        parse(*words)
    assert "\n" not in str(caught.value)


def test_mistakes_in_a_file_name_the_file(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("method: {name: byol, scales: [1]}\n")
    with pytest.raises(UserError, match="c.yaml: unknown setting 'method.scales'; it is a setting of mcl"):
        parse("--config", str(file))
    file.write_text("method: {name: byo}\n")
    with pytest.raises(UserError, match="c.yaml: method.name: no method 'byo'"):
        parse("--config", str(file))


def test_help_shows_the_settings_of_the_method_that_is_named_and_needs_no_torch():
    code = (
        "import sys; from mcl.cli import main\n"
        "try: main(['pretrain', '--method.name', 'byol', '--help', 'method'])\n"
        "finally: print('torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--method.hidden" in said and "--method.scales" not in said and said.strip().endswith("False")


def test_a_setting_that_the_run_of_an_older_version_did_not_know_is_no_difference():
    settings = parse("--method.temperature", "0.3")
    old = dump(settings).replace("  name: mcl\n", "")
    assert old != dump(settings) and differences(old, settings, ()) == []
    assert is_default(settings, "method.name") and not is_default(settings, "method.temperature")
    assert differences(dump(settings).replace("  temperature: 0.3\n", ""), settings, ()) == [
        ("method.temperature", "not set", 0.3)
    ]
    assert differences(old, parse("--method.name", "byol"), ())[0][0].startswith("method.")
