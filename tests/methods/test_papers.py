"""Losses of image-level methods against plain transcriptions of their papers' formulas, in float64, tensor by tensor."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mcl.config.base import from_values
from mcl.config.pretrain import PretrainSettings
from mcl.methods.base import Method
from mcl.methods.build import build_method
from mcl.methods.losses import queue_contrast, regression
from mcl.methods.queue import KeyQueue
from mcl.methods.step import TrainingStep, example_batch
from tiny import tiny

PARTS = ["backbone", "backbone+pyramid+head"]
SMALL = {"batch": 6, "image_size": 64}


def recipe(name: str, parts: str, **more) -> PretrainSettings:
    values = {**tiny(), **SMALL, "data": "a", "out": "b", "method.name": name, "method.parts": parts, **more}
    return from_values(PretrainSettings, values)


def prepared(name: str, parts: str, **more) -> tuple[Method, dict, dict[int, torch.Tensor]]:
    """A method in float64 with target weights of its own, a batch, and its normalised images by view."""
    settings = recipe(name, parts, **more)
    method = build_method(settings).double().train()
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for key, parameter in method.named_parameters():
            if key.startswith(("target.", "predictor.")) and parameter.ndim > 1:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=g, dtype=torch.float64))
    batch = example_batch(settings, "cpu")
    return method, batch, {view: method.images(batch["views"][view, 1]) for view in (1, 2)}


def maps_of(network, images) -> list[np.ndarray]:
    """Level by level: (N, C, w, w)."""
    return [found.detach().numpy() for found in network["features"](images)]


def head(module, values: np.ndarray) -> np.ndarray:
    return module(torch.from_numpy(values)).detach().numpy()


def norm(v: np.ndarray) -> np.ndarray:
    return v / np.sqrt((v**2).sum())


def info_nce(q: np.ndarray, k: np.ndarray, queue: np.ndarray, t: float) -> float:
    """MoCo, equation 1: -log exp(q.k+ / t) / sum of exp(q.k / t) over the positive and the queue."""
    positive = np.exp(q @ k / t)
    return -np.log(positive / (positive + sum(np.exp(q @ negative / t) for negative in queue)))


@pytest.mark.parametrize("parts", PARTS)
def test_mocov2(parts):
    method, batch, images = prepared("mocov2", parts, **{"method.queue": 20, "method.embedding": 8})
    found = float(method.loss(batch, 0)[0].detach())
    levels = []
    for i, (q_maps, k_maps) in enumerate(zip(maps_of(method.online, images[1]), maps_of(method.target, images[2]), strict=True)):
        q, k = (head(network["project"], m.mean((2, 3))) for network, m in ((method.online, q_maps), (method.target, k_maps)))
        queue = method.queues[i].keys.numpy()
        levels.append(np.mean([info_nce(norm(a), norm(b), queue, 0.2) for a, b in zip(q, k, strict=True)]))
    assert found == pytest.approx(np.mean(levels), rel=1e-10)


def test_the_queue_is_first_in_first_out_and_takes_a_batch_larger_than_itself():
    queue, written = KeyQueue(5, 3).double(), []
    for start in (0, 3, 6):
        keys = torch.arange(start, start + 3, dtype=torch.float64)[:, None].expand(3, 3)
        queue.put(keys)
        written += keys[:, 0].tolist()
    assert sorted(queue.keys[:, 0].tolist()) == sorted(written[-5:]) and int(queue.position) == 9 % 5
    queue.put(torch.arange(100, 107, dtype=torch.float64)[:, None].expand(7, 3))
    assert sorted(queue.keys[:, 0].tolist()) == [102, 103, 104, 105, 106]


def test_keys_enter_the_queue_after_the_update_only():
    step = TrainingStep(recipe("mocov2", "backbone", **{"method.queue": 20}), "cpu")
    before = step.method.queues[0].keys.clone()
    step.gradients_only()
    assert torch.equal(step.method.queues[0].keys, before)
    step()
    assert int((step.method.queues[0].keys != before).any(dim=1).sum()) == SMALL["batch"]


@pytest.mark.parametrize("parts", PARTS)
def test_byol(parts):
    method, batch, images = prepared("byol", parts, **{"method.hidden": 16, "method.embedding": 8})
    found = float(method.loss(batch, 0)[0].detach())
    losses = []
    for view, other in ((1, 2), (2, 1)):
        online, target = maps_of(method.online, images[view]), maps_of(method.target, images[other])
        levels = []
        for a, b in zip(online, target, strict=True):
            q = head(method.predictor["predict"], head(method.online["project"], a.mean((2, 3))))
            z = head(method.target["project"], b.mean((2, 3)))
            # equation 2: squared distance of the normalised vectors
            levels.append(np.mean([((norm(p) - norm(t)) ** 2).sum() for p, t in zip(q, z, strict=True)]))
        losses.append(np.mean(levels))
    assert found == pytest.approx(sum(losses), rel=1e-10)  # equation 3: both directions


@pytest.mark.parametrize("parts", PARTS)
def test_simsiam(parts):
    method, batch, images = prepared("simsiam", parts, **{"method.hidden": 16, "method.embedding": 8, "method.bottleneck": 8})
    found = float(method.loss(batch, 0)[0].detach())
    z = {view: [head(method.online["project"], m.mean((2, 3))) for m in maps_of(method.online, images[view])] for view in (1, 2)}
    p = {view: [head(method.predictor["predict"], level) for level in z[view]] for view in (1, 2)}

    def distance(ps, zs):  # algorithm 1: D(p, z) = -(p * z).sum(dim=1).mean()
        return np.mean([-np.mean([norm(a) @ norm(b) for a, b in zip(*pair, strict=True)]) for pair in zip(ps, zs, strict=True)])

    assert found == pytest.approx(distance(p[1], z[2]) / 2 + distance(p[2], z[1]) / 2, rel=1e-10)


@pytest.mark.parametrize("parts", PARTS)
def test_densecl(parts):
    more = {"method.queue": 12, "method.embedding": 8, "method.dense_weight": 0.3}
    method, batch, images = prepared("densecl", parts, **more)
    found = float(method.loss(batch, 0)[0].detach())
    levels = []
    for i, (q_maps, k_maps) in enumerate(zip(maps_of(method.online, images[1]), maps_of(method.target, images[2]), strict=True)):
        q, k = (head(n["project"], m.mean((2, 3))) for n, m in ((method.online, q_maps), (method.target, k_maps)))
        queue, cell_queue = method.image_queues[i].keys.numpy(), method.cell_queues[i].keys.numpy()
        by_image = np.mean([info_nce(norm(a), norm(b), queue, 0.2) for a, b in zip(q, k, strict=True)])
        by_cell = []
        for q_map, k_map in zip(q_maps, k_maps, strict=True):
            f1, f2 = (m.reshape(len(m), -1).T for m in (q_map, k_map))  # cells, channels
            r = head(method.online["project_cells"], f1)
            t = head(method.target["project_cells"], f2)
            for s in range(len(f1)):
                match = max(range(len(f2)), key=lambda j: norm(f1[s]) @ norm(f2[j]))  # equation 4
                by_cell.append(info_nce(norm(r[s]), norm(t[match]), cell_queue, 0.2))  # equation 2
        levels.append((1 - 0.3) * by_image + 0.3 * np.mean(by_cell))  # equation 3
    assert found == pytest.approx(np.mean(levels), rel=1e-10)


def test_targets_get_no_gradient():
    p, t = (torch.randn(4, 8, requires_grad=True) for _ in range(2))
    regression(p, t).backward()
    assert p.grad is not None and t.grad is None
    queries = torch.nn.functional.normalize(torch.randn(3, 4), dim=1)
    loss, numbers = queue_contrast(queries, queries, -queries, 0.01)
    assert float(loss) < 1e-6 and float(numbers["accuracy"]) == 1.0


@pytest.mark.parametrize("name", ["mocov2", "byol", "densecl", "simsiam"])
def test_the_loss_falls_on_a_few_images_without_a_collapse(name):
    step = TrainingStep(recipe(name, "backbone+pyramid+head", batch=16, **{"optim.lr": 2e-3}), "cpu")
    for group in step.optimizer.param_groups:
        group["lr"] = 2e-3
    first, _ = step.method.loss(step.batch, 0)
    for _ in range(12):
        step()
    last, numbers = step.method.loss(step.batch, 0)
    assert float(last.detach()) < float(first.detach()) - 0.05
    assert float(numbers["spread"]) > 0.05
