"""``mcl data convert``: what it writes trains a detector's reader, and its errors are one line."""

from __future__ import annotations

import json

import pytest

from layouts import KINDS, write
from mcl.cli import main
from mcl.data.labels.coco_json import read_coco


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read_as_coco(kind, tmp_path, capsys):
    layout = write(kind, tmp_path, "train", 4, seed=1)
    out = tmp_path / "out" / "train.json"
    given = [layout.given, *(["--images", str(layout.images)] if layout.images else [])]
    assert main(["data", "convert", "--labels", *given, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"{out}: 4 images" in " ".join(said.split())
    root = said.split("--images ")[1].split()[0]
    scenes = read_coco(out, root=type(out)(root))
    assert len(scenes.scenes) == 4 and all(scene.path.is_file() for scene in scenes.scenes)
    assert main(["data", "convert", "--labels", *given, "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_labels_that_are_none_are_one_line(tmp_path, capsys):
    assert main(["data", "convert", "--labels", str(tmp_path / "none"), "--out", str(tmp_path / "a.json")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mcl: error: ") and error.count("\n") == 1 and not (tmp_path / "a.json").exists()
    (tmp_path / "voc.json").write_text(json.dumps([]))
    assert main(["data", "convert", "--labels", f"vok:{tmp_path}", "--out", str(tmp_path / "a.json")]) == 2
    assert "did you mean 'voc'" in capsys.readouterr().err
