"""What commands write has the rights that the user's umask gives, whatever library wrote it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

import mcl
from mcl.data.sources import index
from tiny import tiny

UMASK = 0o007  # group may do all, others nothing: neither 0600 nor 0644
SMALL = {
    "image_size": 64, "unlabeled_objects": 8, "unlabeled_scenes": 4, "train_scenes": 6, "test_scenes": 3,
    "cutouts_per_class": 4,
}  # fmt: skip
FINETUNE = {
    "detector.name": "faster-rcnn", "detector.fc_channels": 32, "batch": 2, "loop.threads": 1, "loop.workers": 0,
    "schedule.steps": 2, "parts": "backbone", "freeze": "none",
}  # fmt: skip


@pytest.fixture(autouse=True)
def umask():
    before = os.umask(UMASK)
    yield
    os.umask(before)


def test_everything_that_is_written_follows_the_umask(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "LARGE", 3)  # so that there is an index
    monkeypatch.setattr(index, "SETTLED", 0)
    work = tmp_path / "work"
    data, run, detector, out = (work / name for name in ("data", "run", "detector", "out"))
    mcl.data_demo(out=data, **SMALL)
    settings = tiny(**{"model.backbone": "resnet18", "loop.tensorboard": True, "schedule.steps": 2})
    mcl.pretrain(data=data / "unlabeled", data_cache=work / "cache", out=run, **settings)
    sets = {"train": data / "train.json", "val": data / "test.json", "images": data}
    mcl.finetune(trunk=str(run), out=detector, **sets, **FINETUNE)
    out.mkdir()
    for name, to in (("t.safetensors", "safetensors"), ("r.pth", "torchvision-resnet"), ("timm", "timm"), ("d.pkl", "detectron2")):
        mcl.export(trunk=run, to=to, out=out / name)
    written = [path for path in work.rglob("*") if not path.is_symlink()]
    assert {"trunk.safetensors", "detector.safetensors", "last.pt", "names.npy", "model.safetensors", "d.pkl"} <= {p.name for p in written}
    wrong = {str(path.relative_to(work)): oct(rights(path)) for path in written if rights(path) != expected(path)}
    assert wrong == {}


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def expected(path: Path) -> int:
    return (0o777 if path.is_dir() else 0o666) & ~UMASK
