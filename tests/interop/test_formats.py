"""The table of formats: what follows from it."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import mcl
from mcl.errors import UserError
from mcl.interop import formats
from mcl.interop.formats import FORMATS, holding
from mcl.run.export import formats_that_fit, module_of

ROOM = Path(formats.__file__).parent


@pytest.mark.parametrize("content", ["trunk", "detector"])
def test_every_entry_has_a_module_with_all_functions(content):
    for entry in holding(content):
        module = module_of(entry, content)
        assert all(callable(getattr(module, name)) for name in ("companions", "fit", "write")), entry.name
        assert entry.writes and entry.receiver and entry.check and "|" not in entry.writes + entry.receiver


def test_every_module_of_a_format_is_in_the_table():
    listed = {module for entry in FORMATS.values() for module in (entry.trunk, entry.detector) if module}
    found = {".".join(("mcl.interop", *p.relative_to(ROOM).with_suffix("").parts)) for p in ROOM.rglob("*_format.py")}
    assert found == listed


def test_help_choices_and_documents_come_from_the_table():
    code = (
        "import sys, mcl.config.export as e; print(' '.join(m for m in ('torch', 'timm', 'numpy') if m in sys.modules));"
        "print(e.ExportSettings.model_fields['to'].description)"
    )
    loaded, said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert loaded == ""
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text("utf-8")
    for name, entry in FORMATS.items():
        assert f"{name}: {entry.writes}" in said and f"| `{name}` | {entry.writes} |" in page


@pytest.fixture
def another(monkeypatch):
    """One entry more: all that a new format needs beside its module."""
    entry = replace(FORMATS["safetensors"], name="ours-too", writes="the same again")
    monkeypatch.setitem(FORMATS, entry.name, entry)
    monkeypatch.delitem(sys.modules, "mcl.config.export")
    yield entry
    sys.modules.pop("mcl.config.export", None)


def test_a_new_entry_is_offered_everywhere(another, resnet18, tmp_path, capsys, monkeypatch):
    from mcl.cli import main

    importlib.import_module("mcl.config.export")
    assert main(["export", "--help"]) == 0
    assert "ours-too: the same again" in " ".join(capsys.readouterr().out.split())
    assert main(["export", str(resnet18), "--to", "ours-tow", "--out", str(tmp_path / "x")]) == 2
    assert "did you mean 'ours-too'?" in capsys.readouterr().err
    assert main(["export", str(resnet18), "--to", "ours-too", "--out", str(tmp_path / "x")]) == 0
    assert (tmp_path / "x").is_file() and "ours-too" in formats.table()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"to": "timm", "parts": "backbone+pyramid"}, "--to timm holds the backbone only"),
        ({"to": "onnx", "parts": "backbone"}, "a detector is written whole"),
        ({"to": "detectron2", "with": "detector"}, "only --to torchvision and --to onnx hold a whole detector"),
        ({"to": "detectron2", "out": "."}, "give --out weights.pkl"),
        ({"to": "torchvison"}, "did you mean 'torchvision'"),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_what_a_format_cannot_hold_is_told_before_anything_is_read(given, says):
    with pytest.raises(UserError, match=says) as caught:
        mcl.export(**{"trunk": "nowhere", "out": "x", **given})
    assert "\n" not in str(caught.value)


def test_formats_that_fit_are_those_that_an_export_would_write(resnet18, convnext, tmp_path):
    from mcl.interop.writing.source import TrunkSource
    from mcl.nn.trunk import load_trunk

    def fitting(path: Path) -> list[str]:
        return formats_that_fit(TrunkSource(load_trunk(path), {}, "backbone+pyramid+head", path), "trunk")

    assert fitting(convnext) == ["timm", "safetensors"]
    of_vits = "detectron2-vitdet"
    assert fitting(resnet18) == [entry.name for entry in holding("trunk") if entry.name != of_vits]
    for name in fitting(resnet18):
        mcl.export(trunk=resnet18, to=name, out=tmp_path / f"{name}{FORMATS[name].ending}")
