"""Supervised pre-training: its loss, its labels, what is said of folders that are no classes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import mcl
from images import picture_folder
from made import PARTS, in_float64, learn, recipe
from mcl.data.sources.find import find_images
from mcl.errors import UserError
from mcl.methods.class_folders import ClassLabel, class_names
from tiny import tiny


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_cross_entropy_of_every_map(parts, smoothing):
    classes = [f"c{i}" for i in range(4)]
    method, batch = in_float64(
        recipe("supervised", parts, **{"method.classes": classes, "method.label_smoothing": smoothing})
    )
    found = float(method.loss(batch, 0)[0].detach())
    levels = []
    for maps in method.features(method.images(batch["views"][1, 1])):
        scores = method.online["classify"](maps.mean((2, 3))).detach().numpy()
        wanted = (1 - smoothing) * np.eye(4)[batch["fields"]["label"]] + smoothing / 4
        levels.append(-(wanted * np.log(np.exp(scores) / np.exp(scores).sum(1, keepdims=True))).sum(1).mean())
    assert found == pytest.approx(np.mean(levels), rel=1e-10)


def test_the_loss_falls_and_labels_are_learnt():
    fall, numbers, _ = learn(recipe("supervised", "backbone+pyramid+head", batch=16, **{"method.classes": ["a", "b", "c"]}))
    assert fall > 0.2 and min(numbers[f"accuracy/p{level}"] for level in range(2, 6)) > 0.7
    assert numbers["chance"] == pytest.approx(1 / 3) and numbers["spread"] > 0.05


def test_labels_are_the_folders_and_stand_in_config_yaml(tmp_path):
    data = picture_folder(tmp_path / "data" / "zebra", 5).parent
    picture_folder(data / "ant", 4), picture_folder(data / "deep" / "cat", 3)
    pictures = find_images(data)
    assert class_names(pictures) == ["ant", "cat", "zebra"]
    label = ClassLabel(("ant", "cat", "zebra"))
    assert [label(p, 0)["label"] for p in pictures].count(1) == 3 and label(data / "zebra" / "0001.jpg", 0) == {"label": 2}
    values = tiny(**{"method.name": "supervised", "data": data, "schedule.epochs": None, "schedule.steps": 2})
    mcl.pretrain(**values, out=tmp_path / "run")
    assert "  classes:\n  - ant\n  - cat\n  - zebra\n" in (tmp_path / "run" / "config.yaml").read_text()
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["chance"] == pytest.approx(1 / 3) and 0 <= line["accuracy/c5"] <= 1
    picture_folder(data / "dog", 2)
    with pytest.raises(UserError, match="of class .dog., which --method.classes does not have"):
        mcl.pretrain(**{**values, "schedule.steps": 3}, out=tmp_path / "run", resume=True, allow_changed=False)


def test_folders_that_are_no_classes_are_said(tmp_path):
    one = picture_folder(tmp_path / "one", 3)
    with pytest.raises(UserError, match="all images lie in one folder, 'one'"):
        class_names(find_images(one))
    picture_folder(tmp_path / "two", 3)
    with pytest.raises(UserError, match=r"is of class 'two'.*did you mean 'tow'"):
        class_names(find_images(tmp_path), ["one", "tow"])
    assert class_names(find_images(tmp_path), ["two", "none", "one"]) == ["two", "none", "one"]
    for name in ("alone.jpg", "a.tar/x.jpg"):
        with pytest.raises(UserError, match="lies in no class folder"):
            class_names([_Named(name)])


class _Named:
    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return self.name


def test_a_picture_that_stands_for_an_unreadable_one_brings_its_own_label(tmp_path):
    from mcl.config.pretrain import ViewSettings
    from mcl.data.loading.dataset import UnlabeledImages
    from mcl.data.loading.views import ViewMaker, ViewSpec, Wanted

    data = picture_folder(tmp_path / "data" / "a", 1).parent
    picture_folder(data / "b", 1)
    (data / "a" / "0000.jpg").write_bytes(b"no picture")
    seen = []

    def fields(picture, number):
        seen.append(number)
        return ClassLabel(("a", "b"))(picture, number)

    maker = ViewMaker(ViewSettings(), Wanted((ViewSpec((1, 1), 32, 0),), fields=fields), seed=0)
    sample = UnlabeledImages(find_images(data), maker)[0, 0]
    assert sample["fields"] == {"label": 1} and seen == [1] and sample["index"] == 0 and len(sample["unreadable"]) == 1
    assert torch.is_tensor(sample["views"][1, 1])
