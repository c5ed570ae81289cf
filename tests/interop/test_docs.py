"""The code in docs/export.md runs as it stands, after ``runs/pretrain`` exists."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "export.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)


@pytest.mark.parametrize(
    "code", BLOCKS, ids=[re.search(r"\b(MaskRCNN|RetinaNet|FCOS|safe_open|initial)\b", b)[1] for b in BLOCKS]
)
def test_code_of_the_page_runs(code, resnet18, tmp_path, monkeypatch):
    (tmp_path / "runs" / "pretrain").mkdir(parents=True)
    shutil.copy(resnet18, tmp_path / "runs" / "pretrain" / "trunk.safetensors")
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    exec(compile(code, str(PAGE), "exec"), scope)
    if "detector" in scope:
        trains(scope["detector"], scope["trunk"])


def trains(detector, trunk) -> None:
    """One training step reaches the pre-trained weights."""
    import torch

    target = {"boxes": torch.tensor([[10.0, 10.0, 90.0, 90.0]]), "labels": torch.tensor([1])}
    target["masks"] = torch.ones(1, 100, 100, dtype=torch.uint8)
    sum(detector.train()([torch.rand(3, 100, 100)] * 2, [dict(target), dict(target)]).values()).backward()
    assert trunk.backbone.body.conv1.weight.grad.abs().sum() > 0
