"""``mcl data convert``: what it writes trains a detector's reader, and its errors are one line."""

from __future__ import annotations

import json

import numpy as np
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


def subset_of(tmp_path, *more):
    layout = write("voc", tmp_path, "train", 20, seed=1)
    out, rest = tmp_path / "part.json", tmp_path / "rest.json"
    code = main(["data", "subset", "--labels", layout.given, "--out", str(out), "--rest", str(rest), *more])
    return code, out, rest


def test_a_part_and_the_rest_are_the_whole(tmp_path, capsys):
    code, out, rest = subset_of(tmp_path, "--fraction", "0.3", "--fold", "2")
    assert code == 0 and f"{out}: 6 images" in capsys.readouterr().out
    drawn, left = (json.loads(path.read_text()) for path in (out, rest))
    # Soft Teacher's draw: numpy's legacy generator with the fold as its seed.
    expected = sorted((np.random.RandomState(2).choice(20, 6, replace=False) + 1).tolist())
    assert [image["id"] for image in drawn["images"]] == expected
    assert sorted(image["id"] for part in (drawn, left) for image in part["images"]) == list(range(1, 21))
    for part in (drawn, left):
        ids = {image["id"] for image in part["images"]}
        assert part["measured_as"] == "voc" and {thing["image_id"] for thing in part["annotations"]} <= ids
    things = [thing["id"] for part in (drawn, left) for thing in part["annotations"]]
    assert sorted(things) == list(range(1, len(things) + 1))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--fraction", "0.01"], "less than one image"),
        (["--fraction", "1.5"], "fraction"),
        (["--fraction", "0.3", "--rest", "part.json", "--out", "part.json"], "is --out too"),
    ],
)
def test_a_part_that_is_none_is_one_line(more, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, rest = subset_of(tmp_path, *more)
    error = capsys.readouterr().err
    assert code == 2 and words in error and error.count("\n") == 1
    assert not out.exists() and not rest.exists()


def test_a_rest_that_is_there_keeps_both_from_being_written(tmp_path, capsys):
    (tmp_path / "rest.json").write_text("mine")
    code, out, rest = subset_of(tmp_path, "--fraction", "0.3")
    assert code == 2 and "is there already" in capsys.readouterr().err
    assert not out.exists() and rest.read_text() == "mine"
