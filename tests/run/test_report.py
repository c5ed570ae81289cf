"""``mcl report`` and ``mcl.report``, also after rooms of the same name were imported."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from mcl.cli import main


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": "x", "method": {"name": "mcl"}, "recipe": "mcl-tiny-128"}))
    return folder


def test_one_folder_gets_its_page_and_several_get_one_here(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").read_text().startswith("<!doctype html>")
    assert str(run / "report.html") in capsys.readouterr().out
    other = run.with_name("two")
    other.mkdir()
    (other / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    assert main(["report", str(run), str(other), "--title", "Both"]) == 0
    assert "<title>Both</title>" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [(["report", "nowhere"], "nowhere: no such folder"), (["report", "."], "not a folder of mcl pretrain"), (["report"], "RUNS")],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and message in told and not list(tmp_path.iterdir())


def test_a_page_that_cannot_be_written(run, tmp_path, capsys):
    assert main(["report", str(run), "--out", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err
    assert main(["report", str(run), "--out", str(run / "config.yaml" / "report.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_the_twin_is_there_whatever_was_imported(run, tmp_path):
    import mcl.methods.registry  # puts the room in the twin's place
    import mcl.report.page

    told = mcl.report(runs=[run], out=tmp_path / "page.html")
    assert told["kinds"] == ["pre-training"] and (tmp_path / "page.html").is_file()
    assert callable(mcl.methods)
    assert mcl.report.page.render and mcl.methods.registry.names(), "and they are rooms still"


def test_a_command_that_has_a_rooms_name_is_one_before_the_room_is_there():
    code = "import mcl; assert callable(mcl.report) and callable(mcl.methods); from mcl import report; report(runs=[])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "give at least one folder" in shown.stderr
