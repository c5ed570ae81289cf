"""Losses without negatives, queue and classes: against the papers' formulas written out, and by their learning."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import mcl
from images import picture_folder
from levels import random_batch
from mcl.bench.step import check_same_losses, variants_of
from mcl.config.base import from_values
from mcl.config.bench import BenchStepSettings
from mcl.config.pretrain import ModelSettings, PretrainSettings
from mcl.data.computed import Survey
from mcl.errors import UserError
from mcl.methods.base import Method
from mcl.methods.build import wanted_of
from mcl.methods.class_folders import class_field, class_number
from mcl.methods.flops import count_flops, step_flops
from mcl.methods.level_loss import contrast, regress
from mcl.methods.mcl.method import Mcl
from mcl.methods.mcl.micro_batches import relabelled
from mcl.methods.mcl.settings import MclSettings
from mcl.methods.mcl.vicreg import covariance, variance, vicreg
from mcl.methods.step import TrainingStep, update
from mcl.nn.trunk import Trunk, TrunkSpec
from tiny import assert_same_state, tiny

VICREG = {"loss": "vicreg", "predictor": False}
FORMS = {"byol": {"loss": "byol"}, "simsiam": {"loss": "simsiam"}, "vicreg": VICREG}


def small(**method) -> Mcl:
    torch.manual_seed(0)
    trunk = Trunk(TrunkSpec("test_resnet", 16, 2, image_size=64))
    return Mcl(trunk, ModelSettings(hidden=32, embedding=16), MclSettings(**method), seed=0)


def batch(images: int = 16, scales=(1, 2, 4, 8)) -> dict:
    found = random_batch(images, scales, torch.Generator().manual_seed(0))
    return {**found, "fields": {"class": torch.arange(images) // 4}}


def randn(*shape) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_byol_is_equation_2():
    """|| q / |q| - z / |z| ||^2, each direction with its weight."""
    q, z = randn(6, 9), randn(6, 9)
    expected = ((q / q.norm(dim=1, keepdim=True) - z / z.norm(dim=1, keepdim=True)) ** 2).sum(dim=1).mean()
    found = regress(q, torch.arange(6), F.normalize(z, dim=1), torch.arange(6), "byol", 0.25)
    torch.testing.assert_close(found.loss, 0.25 * expected)


def test_simsiam_is_algorithm_1():
    """L = D(p1, z2) / 2 + D(p2, z1) / 2 with D the negative cosine."""
    (p1, p2), (z1, z2), images = (randn(5, 7), randn(5, 7)), (randn(5, 7), randn(5, 7)), torch.arange(5)

    def distance(p, z):
        p, z = p / p.norm(dim=1, keepdim=True), z / z.norm(dim=1, keepdim=True)
        return -(p * z).sum(dim=1).mean()

    found = [
        regress(p, images, F.normalize(z, dim=1), images, "simsiam", 1.0).loss for p, z in ((p1, z2), (p2, z1))
    ]
    torch.testing.assert_close(sum(found), distance(p1, z2) / 2 + distance(p2, z1) / 2)


def test_vicreg_is_equations_1_to_6():
    n, d, (far, narrow, related) = 11, 5, (25.0, 25.0, 1.0)
    a, b, images = randn(n, d) / 2, randn(n, d) / 2 + 0.3, torch.arange(n)

    def v(z):  # equations 1 and 2
        return sum(max(0.0, 1 - float((z[:, j].var() + 1e-4).sqrt())) for j in range(d)) / d

    def c(z):  # equations 3 and 4
        mean = z.sum(dim=0) / n
        matrix = sum(torch.outer(row - mean, row - mean) for row in z) / (n - 1)
        return sum(float(matrix[i, j]) ** 2 for i in range(d) for j in range(d) if i != j) / d

    s = sum(float(((x - y) ** 2).sum()) for x, y in zip(a, b, strict=True)) / n  # equation 5
    expected = far / d * s + narrow * (v(a) + v(b)) + related * (c(a) + c(b))  # equation 6
    both = [vicreg(x, images, y, images, (far, narrow, related), 1.0).loss for x, y in ((a, b), (b, a))]
    assert float(sum(both)) == pytest.approx(expected, rel=1e-12) and expected > 1
    assert float(variance(a)) == pytest.approx(v(a)) and float(covariance(b)) == pytest.approx(c(b))


def test_vicreg_averages_over_several_positives():
    z, others = randn(2, 3), randn(3, 3)
    found = vicreg(z, torch.tensor([0, 1]), others, torch.tensor([0, 1, 0]), (1.0, 0.0, 0.0), 1.0).loss
    to_first = (((z[0] - others[0]) ** 2).sum() + ((z[0] - others[2]) ** 2).sum()) / 2
    torch.testing.assert_close(found, (to_first + ((z[1] - others[1]) ** 2).sum()) / 2 / (2 * 3))


def test_without_a_target_network_there_is_none_and_vicreg_pulls_both_sides():
    data = batch()
    for form in ("simsiam", "vicreg"):
        method = small(**FORMS[form])
        assert method.trunks == [method.trunk] and not any(n.startswith("target") for n in method.state_dict())
        loss, numbers = method.loss(data, 0)
        loss.backward()
        assert all(p.grad is not None for p in method.trained.parameters()), form
        assert {"spread", "rank", "loss/p2", "positive_cosine/p4", "accuracy/p5"} <= set(numbers)


@pytest.mark.parametrize("form", FORMS)
def test_a_few_steps_lower_the_loss_without_a_collapse(form):
    method, data = small(**FORMS[form]).train(), batch()
    optimizer = torch.optim.SGD(method.trained.parameters(), 0.05, momentum=0.9)
    rows = []
    for step in range(30):
        rows.append(update(method, data, 0, optimizer, 1.0))
        method.after_update(step, 30)
    first, last = ({name: float(value) for name, value in row.items()} for row in (rows[0], rows[-1]))
    assert last["positive_cosine/p5"] > first["positive_cosine/p5"] + 0.1
    assert last["loss"] < first["loss"] and last["spread"] > 0.4 and last["rank"] > 3, (first, last)
    assert last["accuracy/p5"] > 2 * last["chance"]


# A queue of targets.


def test_queued_targets_are_negatives_and_come_after_the_update():
    method, data = small(queue=40).train(), batch()
    assert set(method.queues) == {"1"}
    before = method.queues["1"].keys.clone()
    loss, numbers = method.loss(data, 0)
    assert torch.equal(method.queues["1"].keys, before) and numbers["chance"] == pytest.approx(1 / (16 + 40))
    targets = torch.cat([found.embeddings[1] for found in method._fresh.values()])
    method.after_update(0, 10)
    assert torch.equal(method.queues["1"].keys[:32], targets) and int(method.queues["1"].position) == 32
    assert torch.equal(method.queues["1"].keys[32:], before[32:])


def test_a_queue_enters_the_loss_as_more_columns_without_positives():
    predictions, targets, queue = randn(4, 6), F.normalize(randn(4, 6), dim=1), F.normalize(randn(9, 6), dim=1)
    images, labels = torch.arange(4), torch.cat([torch.arange(4), torch.full((9,), -1)])
    found = contrast(predictions, images, torch.cat([targets, queue]), labels, 0.3, 0.5)
    logits = F.normalize(predictions, dim=1) @ torch.cat([targets, queue]).T / 0.3
    torch.testing.assert_close(found.loss, 0.5 * 2 * 0.3 * F.cross_entropy(logits, images))


def test_every_scale_that_is_a_target_has_its_own_queue():
    method = small(queue=24, assignment="adjacent", scales=[1, 2]).train()
    loss, _ = method.loss(batch(), 0)
    loss.backward()
    newest = {s: torch.cat([found.embeddings[s] for found in method._fresh.values()])[-24:] for s in (1, 2)}
    method.after_update(0, 10)
    assert set(method.queues) == {"1", "2"} and not torch.equal(newest[1], newest[2])
    assert all(torch.equal(method.queues[str(s)].keys, newest[s]) for s in (1, 2))


@pytest.mark.parametrize("form", ["queue", "vicreg", "scattered"])
def test_a_resumed_run_equals_an_uninterrupted_one(form, tmp_path, monkeypatch):
    options = {
        "queue": {"method.queue": 20},
        "vicreg": {"method.loss": "vicreg", "method.predictor": False},
        "scattered": {"method.layout": "scattered", "method.localise": True, "loop.workers": 1},
    }[form]
    photos = picture_folder(tmp_path / "photos", 12)
    settings = tiny(**{"data": photos, "schedule.steps": 5, "loop.checkpoint_every": 3, **options})
    mcl.pretrain(out=tmp_path / "whole", **settings)
    with monkeypatch.context() as patched:
        moved = Mcl.after_update

        def stop(self, step, total_steps):
            if step == 4:
                raise RuntimeError("stopped here")
            moved(self, step, total_steps)

        patched.setattr(Mcl, "after_update", stop)
        with pytest.raises(RuntimeError, match="stopped here"):
            mcl.pretrain(out=tmp_path / "parts", **settings)
    assert torch.load(tmp_path / "parts/checkpoints/last.pt", weights_only=True)["step"] == 3
    mcl.pretrain(out=tmp_path / "parts", resume=True, **settings)
    assert_same_state(tmp_path / "whole", tmp_path / "parts")
    state = torch.load(tmp_path / "parts/checkpoints/last.pt", weights_only=True)["state"]["method"]
    assert ("queues.1.keys" in state) == (form == "queue")


# Classes.


def test_tiles_of_one_class_are_positives():
    method, data = small(labels=True).eval(), batch()
    loss, numbers = method.loss(data, 0)
    assert numbers["chance"] == pytest.approx(4 / 16)
    own = method.draw_micro_batch(data, 0, 0)
    targets, predictions = method.own_targets(own), method.predict(method.read_online(own, 1).embeddings)
    probabilities = F.log_softmax(F.normalize(predictions[2], dim=1) @ targets[2].embeddings[1].T, dim=1)
    classes = data["fields"]["class"]
    expected = torch.stack([
        -row[classes == classes[image]].mean() for row, image in zip(probabilities, own.labels(1, 2), strict=True)
    ]).mean()  # fmt: skip
    of_view = method.compare(own, {1: predictions}, relabelled(targets, classes), classes)[1, 2]
    torch.testing.assert_close(of_view.loss, 0.25 * 2 * expected)


def test_a_class_is_the_folder_that_a_picture_lies_in():
    cat, other_cat, dog = (class_number(Path(name)) for name in ("a/cat/1.jpg", "a/cat/2.jpg", "a/dog/1.jpg"))
    assert cat == other_cat != dog and 0 <= cat < 2**62
    assert cat == class_number(Path("a/cat/9.png")), "the same in every run"


def test_labels_of_one_folder_are_refused():
    data = batch()
    data["fields"]["class"] = torch.zeros(16, dtype=torch.long)
    with pytest.raises(UserError, match="--method.labels: all 16 images of the first batch lie in one folder"):
        small(labels=True).loss(data, 0)


def test_labels_ask_the_loader_for_classes(tmp_path):
    """As a run asks for them, with a survey of its pictures."""
    survey = Survey([], tmp_path)
    given = {"data": "x", "out": "x", "recipe": "mcl-tiny-128"}
    assert wanted_of(from_values(PretrainSettings, {**given, "method.labels": True}), survey).fields is class_field
    assert wanted_of(from_values(PretrainSettings, given), survey).fields is None


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"loss": "simsiam", "predictor": False}, "collapses without predictors"),
        ({"loss": "vicreg"}, "use predictor=false"),
        ({"loss": "byol", "queue": 64}, "has no negatives"),
        ({"queue": 64, "labels": True}, "use queue=0 or labels=false"),
        ({"loss": "simsiam", "labels": True}, "compares views of one image"),
        ({"loss": "simsiam", "target_canvases": "full"}, "has no target network"),
    ],
)
def test_what_does_not_go_together_is_refused(method, message):
    with pytest.raises(ValueError, match=message):
        MclSettings(**method)


@pytest.mark.parametrize("form", [*FORMS, "queue", "labels", "scattered", "dense", "regions"])
def test_ways_to_compute_a_form_agree_and_its_cost_is_counted(form):
    scattered = {"layout": "scattered", "localise": True}
    others = {"queue": {"queue": 16}, "labels": {"labels": True}, "dense": {"dense_weight": 1}, "regions": {"regions_weight": 1}}
    method = {**FORMS, **others, "scattered": scattered}[form]
    tiny = {
        "batch": 4, "image_size": 32, "model.backbone": "test_resnet", "model.pyramid_channels": 16, "model.hidden": 32,
        "model.embedding": 16, "model.head_convs": 1, "method.scales": [1, 2], "loop.threads": 1,
        **{f"method.{name}": value for name, value in method.items()},
    }  # fmt: skip
    settings = from_values(BenchStepSettings, tiny)
    steps = {name: TrainingStep(one, torch.device("cpu")) for name, one in variants_of(settings).items()}
    assert len(check_same_losses(steps)) == {"simsiam": 4, "vicreg": 4, "scattered": 3, "dense": 3, "regions": 3}.get(form, 5)
    counted = {name: step_flops(one) for name, one in variants_of(settings).items()}
    assert form in ("scattered", "dense", "regions") or counted["matched/all"]["head"] < counted["exhaustive"]["head"]
    real = steps["matched/all"]
    assert count_flops(real.method.components(), real.gradients_only) == counted["matched/all"]
    assert ("target" in counted["matched/all"]) == (method.get("loss") not in ("simsiam", "vicreg"))
    assert isinstance(steps["matched/all"].method, Method)
