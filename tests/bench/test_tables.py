"""Tables: on screen, as JSON, as Markdown."""

from __future__ import annotations

import json

import pytest

from mcl.bench.tables import Table, markdown_of, publish, to_markdown
from mcl.config.base import from_values
from mcl.config.bench import BenchSettings
from mcl.errors import UserError

TABLE = Table(
    "Times", {"side": ("side", "{}"), "s": ("time", "{:.1f} s")}, [{"side": "a", "s": 1.25}, {"side": "b"}]
)


def test_markdown_shows_a_dash_for_what_is_not_there():
    assert to_markdown(TABLE, with_title=False).splitlines() == [
        "| side | time |", "|---|---:|", "| a | 1.2 s |", "| b | - |",
    ]  # fmt: skip


def test_json_holds_numbers_settings_and_machine_and_gives_the_markdown_back(tmp_path, capsys):
    file = tmp_path / "new" / "a.json"
    publish("step", [TABLE], from_values(BenchSettings, {"json": file, "batch": 4}), {"extra": 1})
    content = json.loads(file.read_text())
    assert content["tables"][0]["rows"][0]["s"] == 1.25 and content["extra"] == 1
    assert content["settings"]["batch"] == 4 and content["settings"]["model"]["backbone"] == "resnet18"
    assert {"cpu", "cores", "torch", "threads"} <= set(content["machine"])
    assert to_markdown(TABLE) in markdown_of(file) and content["machine"]["torch"] in markdown_of(file)
    assert "Times" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "[]", '{"tables": 3}', '{"tables": [{}]}'])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match="not written by mcl bench"):
        markdown_of(tmp_path / "a.json")
    with pytest.raises(UserError, match="No such file"):
        markdown_of(tmp_path / "b.json")


def test_settings_of_a_recipe_become_those_of_pretrain(tmp_path):
    made = from_values(BenchSettings, {"recipe": "mcl-r18-128", "batch": 6}).pretrain(
        tmp_path, tmp_path / "run"
    )
    assert made.batch == 6 and made.image_size == 128 and made.out == tmp_path / "run"
