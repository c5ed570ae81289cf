"""The whole path in small: data, pre-training, two fine-tunings, a table; and what is kept on a second call."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import mcl
from mcl.errors import UserError

SMALL = {
    "unlabeled_images": 64, "train_scenes": 8, "test_scenes": 8, "image_size": 64, "pretrain_steps": 1,
    "finetune_steps": 2, "threads": 1,
}  # fmt: skip


def test_demo_goes_all_the_way_and_keeps_what_is_done(tmp_path, capsys):
    first = mcl.demo(out=tmp_path / "demo", **SMALL)
    shown = capsys.readouterr().out
    assert "from scratch" in shown and "pre-trained (MCL)" in shown
    made = json.loads((tmp_path / "demo" / "data" / "train.json").read_text())
    assert len(made["images"]) == 8 and made["images"][0]["width"] == 64 and len(made["categories"]) == 4
    assert "64 unlabeled images" in shown
    assert first["pretrained"]["loaded_share"] > 0.3 and first["scratch"]["loaded_share"] == 0
    assert first["pretrained"]["cost"]["steps"] == first["scratch"]["cost"]["steps"] == 2
    scratch, pretrained = (_config(tmp_path / "demo" / name) for name in ("scratch", "pretrained"))
    # Not the trunk's own 4 cells: objects are told apart in finer windows, from P2 up to the image's width.
    assert scratch["detector"]["roi_size"] == 7 and scratch["detector"]["roi_scale"] == 2 * 64
    same = [{k: v for k, v in one.items() if k not in ("trunk", "like", "out")} for one in (scratch, pretrained)]
    assert same[0] == same[1]
    for file in ("pretrain/montage.png", "pretrained/detections.png", "scratch/detections.png", "data/preview.png"):
        assert (tmp_path / "demo" / file).stat().st_size > 5000
    again = mcl.demo(out=tmp_path / "demo", **SMALL)
    assert again == first and capsys.readouterr().out.count("kept from an earlier call") == 4
    # Killed half-way: what is missing is made again, and only that.
    (tmp_path / "demo" / "scratch" / "summary.json").unlink()
    again = mcl.demo(out=tmp_path / "demo", **SMALL)
    assert again["scratch"]["box_AP"] == first["scratch"]["box_AP"]
    assert capsys.readouterr().out.count("kept from an earlier call") == 3
    with pytest.raises(UserError, match="--seed was 0, now 1"):
        mcl.demo(out=tmp_path / "demo", **SMALL, seed=1)


def _config(run: Path) -> dict:
    return yaml.safe_load((run / "config.yaml").read_text("utf-8"))


def test_demo_leaves_other_folders_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="not a demo of mcl"):
        mcl.demo(out=tmp_path, **SMALL)
