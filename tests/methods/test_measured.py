"""What a pre-training run measures of itself: how far weights have turned, and what neighbours say of its features."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F

import mcl
from images import picture, picture_folder
from mcl.config.pretrain import ModelSettings
from mcl.errors import UserError
from mcl.methods.mcl.method import Mcl
from mcl.methods.mcl.settings import MclSettings
from mcl.methods.neighbours import ClassFolders, accuracy, neighbour_accuracies, pooled
from mcl.methods.turned import StartingWeights, angle
from mcl.nn.trunk import Trunk, TrunkSpec
from tiny import assert_same_state, tiny


def test_the_angle_is_that_of_the_vectors_joined():
    a, b = [torch.tensor([1.0, 0.0]), torch.tensor([[0.0]])], [torch.tensor([1.0, 1.0]), torch.tensor([[2.0]])]
    assert angle(a, b) == pytest.approx(math.degrees(math.acos(1 / math.sqrt(6))), rel=1e-5)
    assert angle(a, [3 * piece for piece in a]) == 0.0
    assert angle(a, [torch.tensor([1.0, 1e-4]), torch.zeros(1, 1)]) == pytest.approx(math.degrees(1e-4), rel=1e-3)
    assert angle(a, [torch.zeros(2), torch.zeros(1, 1)]) <= 180, "a number, also when weights have gone to nothing"


def test_a_trunk_turns_by_part_and_norms_do_not_count():
    torch.manual_seed(0)
    trunk = Trunk(TrunkSpec("test_resnet", 16, 1, image_size=32))
    start = StartingWeights(trunk)
    assert start.turned(trunk) == {"turned/backbone": 0.0, "turned/pyramid": 0.0, "turned/head": 0.0}
    with torch.no_grad():
        head = trunk.roi_heads.box_head[0][0].weight
        aside = torch.randn_like(head)
        aside -= head * (aside * head).sum() / head.square().sum()
        head += aside * head.norm() / aside.norm()  # by 45 degrees
        for module in trunk.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.normal_()
    assert start.turned(trunk) == pytest.approx({"turned/backbone": 0, "turned/pyramid": 0, "turned/head": 45}, abs=1e-3)
    trunk.backbone.fpn.requires_grad_(False)
    assert set(StartingWeights(trunk).turned(trunk)) == {"turned/backbone", "turned/head"}


def test_neighbours_vote_by_cosine_and_nobody_for_itself():
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(40, 5, generator=generator), torch.randint(0, 3, (40,), generator=generator)
    right = 0
    for i, row in enumerate(features):
        cosines = F.cosine_similarity(row[None], features)
        cosines[i] = -2
        votes = {label: [] for label in range(3)}
        for j in cosines.argsort(descending=True)[:10].tolist():
            votes[int(labels[j])].append(float(cosines[j]))
        right += max(votes, key=lambda label: (len(votes[label]), sum(votes[label]))) == int(labels[i])
    assert accuracy(features, labels) == pytest.approx(right / 40)
    clusters = torch.eye(3)[labels] + 0.01 * torch.randn(40, 3, generator=generator)
    assert accuracy(clusters, labels) == 1.0


def test_pooled_levels_are_those_of_the_trunk():
    torch.manual_seed(0)
    trunk = Trunk(TrunkSpec("test_resnet", 16, 1, image_size=64)).eval()
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        found = pooled(trunk, images)
        for name, level in trunk(images).items():
            torch.testing.assert_close(found[name], level.mean(dim=(2, 3)), rtol=1e-4, atol=1e-5)
    assert set(found) == {"c5", "p5", "p4", "p3", "p2"}


def class_folders(folder, classes=2, each=10):
    """Each class has pictures of its own: one image, always a little different."""
    for number in range(classes):
        (folder / f"class{number}").mkdir(parents=True)
        for i in range(each):
            shown = picture(1000 * number).rotate(3 * i)
            shown.save(folder / f"class{number}" / f"{i}.png")
    return folder


def test_measuring_leaves_no_trace_in_the_trunk(tmp_path):
    torch.manual_seed(0)
    trunk = Trunk(TrunkSpec("test_resnet", 16, 1, image_size=32))
    method = Mcl(trunk, ModelSettings(hidden=32, embedding=16), MclSettings(), seed=0).train()
    trunk.roi_heads.eval()
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    pictures = sorted(class_folders(tmp_path).rglob("*.png"))
    found = neighbour_accuracies(method, ClassFolders(pictures, 32, 100, 0, "here"))
    assert found["knn/c5"] > 0.8 and set(found) == {"knn/c5", "knn/p5", "knn/p4", "knn/p3", "knn/p2"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.state_dict().items())
    assert method.training and trunk.backbone.training and not trunk.roi_heads.training


def rows_of(run) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def stopped_at(step: int, monkeypatch, **settings) -> None:
    """A run that breaks off in a step; its last checkpoint is there."""
    moved = Mcl.after_update

    def stop(self, at, total_steps):
        if at == step:
            raise RuntimeError("stopped here")
        moved(self, at, total_steps)

    with monkeypatch.context() as patched:
        patched.setattr(Mcl, "after_update", stop)
        with pytest.raises(RuntimeError, match="stopped here"):
            mcl.pretrain(**settings)


def test_a_run_logs_both_and_a_resumed_one_the_same(tmp_path, monkeypatch):
    data, other = class_folders(tmp_path / "data"), picture_folder(tmp_path / "other", 12)
    settings = tiny(**{
        "data": other, "schedule.steps": 6, "loop.checkpoint_every": 3, "loop.log_every": 1,
        "watch.knn_every": 4, "watch.knn_data": str(data), "optim.lr": 0.01,
    })  # fmt: skip
    mcl.pretrain(out=tmp_path / "whole", **settings)
    stopped_at(4, monkeypatch, out=tmp_path / "parts", **settings)
    mcl.pretrain(out=tmp_path / "parts", resume=True, **settings)
    whole, parts = rows_of(tmp_path / "whole"), rows_of(tmp_path / "parts")
    names = [name for name in whole[3] if name.startswith(("turned/", "knn/"))]
    assert len(names) == 3 + 5
    for a, b in zip(whole, parts, strict=True):
        assert {n: a[n] for n in names if n in a} == {n: b[n] for n in names if n in b}
    assert [row["step"] for row in whole if "knn/p5" in row] == [4, 6]
    turned = [row["turned/backbone"] for row in whole]
    assert 0 < turned[0] < turned[-1] < 90


def test_weights_that_a_run_began_with_count_as_its_start(tmp_path, monkeypatch, capsys):
    photos = picture_folder(tmp_path / "photos", 12)
    settings = tiny(**{"data": photos, "schedule.steps": 4, "loop.checkpoint_every": 2})
    mcl.pretrain(out=tmp_path / "first", **settings, **{"optim.lr": 0.01})
    assert rows_of(tmp_path / "first")[-1]["turned/head"] > 0.2
    settings |= {"init_from": str(tmp_path / "first"), "optim.lr": 1e-6}
    stopped_at(3, monkeypatch, out=tmp_path / "second", **settings)
    stopped_at(3, monkeypatch, out=tmp_path / "third", **settings)
    mcl.pretrain(out=tmp_path / "second", resume=True, **settings)
    turned = [row["turned/head"] for row in rows_of(tmp_path / "second")]
    assert len(turned) == 4 and 0 < max(turned) < 0.2
    (tmp_path / "first/trunk.safetensors").unlink()
    capsys.readouterr()
    mcl.pretrain(out=tmp_path / "third", resume=True, **settings)
    assert "turned/* is not logged" in " ".join(capsys.readouterr().out.split())
    assert ["turned/head" in row for row in rows_of(tmp_path / "third")] == [True, True, False, False]
    assert_same_state(tmp_path / "second", tmp_path / "third")


@pytest.mark.parametrize(("classes", "each", "message"), [(1, 12, "all pictures lie in one folder"), (2, 3, "too few")])
def test_folders_that_tell_nothing_are_refused_before_the_run(tmp_path, classes, each, message):
    data = class_folders(tmp_path / "data", classes, each)
    with pytest.raises(UserError, match=f"--data .*{message}"):
        mcl.pretrain(out=tmp_path / "run", **tiny(**{"data": data, "watch.knn_every": 2, "schedule.steps": 1}))
    assert not (tmp_path / "run").exists()
