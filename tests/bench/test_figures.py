"""Numbers that tests measured: recorded by processes side by side, collected, and all that the docs' tables show."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

import pytest

import measured

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import docs  # noqa: E402
import figures  # noqa: E402


def record_many(number: int) -> None:
    for i in range(201):
        measured.record(f"test_{number}", "many", f"row {number}", i, "s", "x" * 50)


def test_nothing_is_recorded_unless_asked_for(tmp_path, monkeypatch, figure):
    monkeypatch.delenv(measured.VARIABLE, raising=False)
    figure("group", "name", 1)
    monkeypatch.setenv(measured.VARIABLE, str(tmp_path / "a.jsonl"))
    figure("group", "name", 1)
    (line,) = (tmp_path / "a.jsonl").read_text().splitlines()
    assert "test_nothing_is_recorded_unless_asked_for" in line and '"name": "name"' in line


def test_lines_of_processes_side_by_side_are_whole(tmp_path, monkeypatch):
    monkeypatch.setenv(measured.VARIABLE, str(tmp_path / "a.jsonl"))
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.map(record_many, range(4), chunksize=1)
    figures.collect(tmp_path / "a.json", tmp_path / "a.jsonl")
    assert figures.tables(tmp_path / "a.json", "many").count("100 s (0 .. 200 s; 201 times)") == 4


def test_figures_become_a_table(tmp_path, monkeypatch):
    monkeypatch.setenv(measured.VARIABLE, str(tmp_path / "a.jsonl"))
    for value in (3.0, 1.26, 2.0):
        measured.record("test_b", "speed", "stop", value, "s", "until exit")
    measured.record("test_b", "speed", "stop", 0.123, "s", "until saved")
    measured.record("test_a", "speed", "index", 1234567.8, "", "until exit")
    figures.collect(tmp_path / "a.json", tmp_path / "a.jsonl")
    table = figures.tables(tmp_path / "a.json", "speed").splitlines()
    assert table[:4] == [
        "| speed | until exit | until saved |",
        "|---|---:|---:|",
        "| index | 1,234,568 | - |",
        "| stop | 2 s (1.3 .. 3 s; 3 times) | 0.12 s |",
    ]
    assert "cores" in table[-1] and "torch" in table[-1]
    with pytest.raises(SystemExit, match="nothing of other, but of speed"):
        figures.tables(tmp_path / "a.json", "speed", "other")


def test_tables_of_the_docs_are_those_of_the_json_files():
    """No number in them is typed by hand: ``make docs`` changes nothing."""
    for page in docs.pages():
        text = page.read_text("utf-8")
        assert docs.filled(text) == text, page
