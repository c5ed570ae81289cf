"""SwAV: its loss and codes against plain transcriptions, its queue, its frozen prototypes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lightly.loss.swav_loss import sinkhorn

from made import PARTS, in_float64, learn, recipe
from mcl.methods.step import TrainingStep

SMALL = {"method.hidden": 16, "method.embedding": 8, "method.prototypes": 5, "method.small": 2, "method.queue": 4}


def assignment(scores: np.ndarray, epsilon: float, rounds: int) -> np.ndarray:
    """Appendix A, line by line: Q of K x B, its rows to sums 1 / K, its columns to 1 / B."""
    q = np.exp(scores / epsilon).T
    q /= q.sum()
    k, b = q.shape
    for _ in range(rounds):
        q = q / q.sum(axis=1, keepdims=True) / k
        q = q / q.sum(axis=0, keepdims=True) / b
    return (q * b).T


@pytest.mark.parametrize("queue", [0, 4])
@pytest.mark.parametrize("parts", PARTS)
def test_the_loss_is_the_paper_s(parts, queue):
    method, batch = in_float64(recipe("swav", parts, **{**SMALL, "method.queue": queue}))
    if queue:
        method.queued.fill_(queue)
        method.load_state_dict(method.state_dict())  # as a resumed run does
    method._normalise_prototypes()
    method.progress.fill_(0.5)
    found = float(method.loss(batch, 0)[0].detach())
    c = method.predictor["prototypes"].weight.detach().numpy()
    levels = []
    for number in range(len(method.features.names)):
        # Crops of a size share BatchNorm statistics, all crops those of the projector.
        pooled = []
        for group in ([1, 2], [3, 4]):
            images = method.images(torch.cat([batch["views"][view, 1] for view in group]))
            pooled.append(method.features(images)[number].mean((2, 3)))
        z = method.online["project"](torch.cat(pooled)).detach().numpy()
        z = (z / np.linalg.norm(z, axis=1, keepdims=True)).reshape(4, -1, z.shape[1])
        total = 0.0
        for place, large in enumerate((0, 1)):
            rows = z[large]
            if queue:
                rows = np.concatenate([rows, method.queues[number][place].keys.numpy()])
            q = assignment(rows @ c.T, 0.05, 3)[: len(z[large])]
            for crop in {0, 1, 2, 3} - {large}:
                logits = z[crop] @ c.T / 0.1
                p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
                total += -(q * np.log(p)).sum(1).mean()  # equation 2
        levels.append(total / (2 * 3))  # equation 6, as a mean over its terms
    assert found == pytest.approx(np.mean(levels), rel=1e-10)


def test_codes_even_out_the_prototypes():
    scores = torch.nn.functional.normalize(torch.randn(40, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=1)
    np.testing.assert_allclose(sinkhorn(scores, 3, 0.05), assignment(scores.numpy(), 0.05, 3), rtol=1e-10)
    even = sinkhorn(scores, 200, 0.05)
    torch.testing.assert_close(even.sum(0), torch.full((8,), 5.0, dtype=torch.float64), rtol=1e-6, atol=0)
    assert torch.isfinite(sinkhorn(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), 3, 0.05)).all()


def test_the_queue_fills_when_its_time_has_come_and_counts_when_it_is_full():
    step = TrainingStep(recipe("swav", "backbone", **{**SMALL, "method.queue": 12}), "cpu")
    method, before = step.method, [queue.keys.clone() for queue in step.method.queues[0]]
    step()  # the first of 1000 steps: too early
    assert int(method.queued) == 0 and torch.equal(before[0], method.queues[0][0].keys)
    method.settings = method.settings.model_copy(update={"queue_after": 0.0})
    with torch.no_grad():
        expected = method._encode(step.batch["views"])[0]
    list(method.losses(step.batch, 1))
    method.after_update(1, 1000)
    torch.testing.assert_close(method.queues[0][1].keys[:6], expected[2], rtol=1e-4, atol=1e-5)
    assert int(method.queued) == 6
    # Half full: what its other half holds changes nothing. Full: it does.
    for full, same in ((False, True), (True, False)):
        if full:
            list(method.losses(step.batch, 2))
            method.after_update(2, 1000)
        losses = []
        for noise in (0.0, 0.5):
            method.queues[0][0].keys[6:] += noise
            losses.append(float(method.loss(step.batch, 3)[0].detach()))
        assert (abs(losses[0] - losses[1]) < 1e-4) == same


def test_prototypes_have_length_one_and_wait_at_first():
    step = TrainingStep(recipe("swav", "backbone", **SMALL, **{"method.freeze": 0.0015}), "cpu")
    for group in step.optimizer.param_groups:
        group["lr"] = 1e-2
    weight = step.method.predictor["prototypes"].weight
    before = weight.detach().clone()
    step(), step()  # of 1000
    torch.testing.assert_close(weight.detach(), before, rtol=0, atol=1e-6)
    step()
    assert (weight - before).abs().max() > 1e-3
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(5), rtol=0, atol=1e-5)


@pytest.mark.parametrize("parts", PARTS)
def test_the_loss_falls_without_a_collapse(parts):
    more = {**SMALL, "method.prototypes": 24, "method.queue": 0, "method.freeze": 0.0}
    fall, numbers, step = learn(recipe("swav", parts, batch=16, **more), steps=25)
    assert fall > 0.3 and numbers["spread"] > 0.3 and numbers["rank"] > 3
    first = step.method.features.names[0]
    assert numbers[f"accuracy/{first}"] > 5 * numbers["chance"]


def test_crops_are_as_many_and_as_large_as_in_the_paper():
    spec = recipe("swav", "backbone", image_size=224)
    wanted = TrainingStep(recipe("swav", "backbone", **SMALL), "meta").method.wanted(spec.method, spec.views, 224).views
    assert [(view.size, view.crop_scale) for view in wanted] == [(224, (0.14, 1.0))] * 2 + [(96, (0.05, 0.14))] * 6
    assert len({view.key for view in wanted}) == 8
