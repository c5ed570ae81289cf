"""A batch in micro-batches is the same batch: losses and gradients, with BatchNorm statistics out of the way."""

from __future__ import annotations

import pytest
import torch

from levels import joint_regions, random_batch, random_regions
from mcl.config.pretrain import ModelSettings
from mcl.methods.base import mean_numbers, split_batch
from mcl.methods.mcl.method import Mcl
from mcl.methods.mcl.micro_batches import MicroBatch
from mcl.methods.mcl.scattered import tile_side
from mcl.methods.mcl.settings import MclSettings
from mcl.methods.montage import Shuffle
from mcl.nn.trunk import Trunk, TrunkSpec

SCALES, IMAGES, PARTS = [1, 2, 4], 32, 2


FORMS = {
    "top": {},
    "all": {"assignment": "all"},
    "byol": {"loss": "byol"},
    "simsiam": {"loss": "simsiam", "assignment": "same"},
    "vicreg": {"loss": "vicreg", "predictor": False, "assignment": "adjacent"},
    "queue": {"queue": 50},
    "labels": {"labels": True},
    "scattered": {"layout": "scattered", "assignment": "same", "localise": True},
    "dense": {"dense_weight": 0.7},
    "regions": {"regions_weight": 0.6, "regions": 3},
    "labels byol": {"labels": True, "loss": "byol"},
}


def _method(form: str) -> Mcl:
    torch.manual_seed(0)
    trunk = Trunk(TrunkSpec("test_resnet", 16, 2, image_size=64))
    settings = MclSettings(scales=SCALES, temperature=0.5, **FORMS[form])
    method = Mcl(trunk, ModelSettings(hidden=32, embedding=16), settings, seed=0).double()
    with torch.no_grad():  # predictors begin near zero: gradients would be too small to compare
        for p in method.online["predictors"].parameters() if settings.predictor else ():
            p.normal_(std=0.3)
    return method.eval()


def _batch(side=None) -> dict:
    g = torch.Generator().manual_seed(1)
    batch = random_batch(IMAGES, SCALES, g, side=side)
    return {**batch, "fields": {"class": torch.randint(0, 9, (IMAGES,), generator=g), **random_regions(IMAGES, g)}}


def _joined(method: Mcl, batch: dict) -> MicroBatch:
    """Canvases and shuffles of one batch whose montages are those of the micro-batches."""
    drawn = [method.draw_micro_batch(piece, 3, number) for number, piece in enumerate(split_batch(batch, PARTS))]
    counts = method.montages(IMAGES // PARTS)
    canvases, shuffles, boxes, jittered, crops = {}, {}, {}, {}, {}
    for view in (1, 2):
        pieces = [part.canvases[view].split([counts[s] for s in SCALES]) for part in drawn]
        canvases[view] = torch.cat([piece[i] for i in range(len(SCALES)) for piece in pieces])
        shuffles[view] = Shuffle({s: torch.cat([part.labels(view, s) for part in drawn]) for s in SCALES})
        for joined, given in ((boxes, [part.boxes for part in drawn]), (jittered, [part.jittered for part in drawn])):
            if given[0]:
                joined[view] = {s: torch.cat([of_part[view][s] for of_part in given]) for s in SCALES[1:]}
        crops[view] = {s: torch.cat([part.crops[view][s] for part in drawn]) for s in SCALES}
    return MicroBatch(canvases, shuffles, 0, boxes, jittered, crops, joint_regions(drawn))


@pytest.mark.parametrize("form", FORMS)
def test_micro_batches_add_up_to_the_batch(form, monkeypatch):
    method, batch = _method(form), _batch(tile_side if form == "scattered" else None)
    joined = _joined(method, batch)
    with monkeypatch.context() as patched:
        patched.setattr(method, "draw_micro_batch", lambda *_: joined)
        whole, told = method.loss(batch, 3)
    whole.backward()
    expected = {name: p.grad for name, p in method.trained.named_parameters()}
    method.zero_grad(set_to_none=True)
    losses, spreads = [], []
    for loss, numbers in method.losses(batch, 3, PARTS):
        loss.backward()
        losses.append(loss.detach())
        spreads.append(numbers["spread"])
    torch.testing.assert_close(sum(losses), whole.detach(), rtol=1e-12, atol=0)
    passes = method.backward_passes(PARTS)
    assert len(losses) == passes == (PARTS if form in ("simsiam", "vicreg") else 2 * PARTS)
    if form != "simsiam":  # nothing of the others enters its loss, so nothing of them is asked for
        torch.testing.assert_close(spreads, [told["spread"]] * passes)
    if form != "vicreg":  # each gives its share of the whole batch's loss
        assert len({float(loss) for loss in losses}) == passes
    for name, p in method.trained.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-9, atol=1e-13)


def test_only_one_micro_batch_keeps_activations_at_a_time():
    method, batch = _method("top"), _batch()
    method.float()

    def kept(parts: int) -> int:
        most = 0
        for loss, _ in method.losses(batch, 0, parts):
            sizes = {}

            def visit(node, sizes=sizes):
                for name in dir(node):
                    if name.startswith("_saved_") and torch.is_tensor(tensor := getattr(node, name, None)):
                        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()

            seen, stack = set(), [loss.grad_fn]
            while stack:
                node = stack.pop()
                if node is None or node in seen:
                    continue
                seen.add(node)
                visit(node)
                stack += [following for following, _ in node.next_functions]
            most = max(most, sum(sizes.values()))
            loss.backward()
        return most

    assert kept(4) < 0.5 * kept(1)


def test_embeddings_that_come_ahead_leave_running_statistics_as_they_were():
    """Of VICReg's micro-batches all are embedded twice; the statistics see them once, as without micro-batches."""
    states = []
    for ahead in (True, False):
        method = _method("vicreg").float().train()
        list(method.losses(_batch(), 0, PARTS)) if ahead else [
            method.read_online(own, view)
            for number, piece in enumerate(split_batch(_batch(), PARTS))
            for own in [method.draw_micro_batch(piece, 0, number)]
            for view in (1, 2)
        ]
        states.append(dict(method.named_buffers()))
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_one_view_at_a_time_is_the_step_of_both_at_once():
    """In train mode too: targets come first, then view after view, whichever way backward is called."""
    batch, states, grads, logged = _batch(), [], [], []
    for at_once in (True, False):
        method = _method("top").float().train()
        if at_once:
            loss, numbers = method.loss(batch, 0)
            loss.backward()
        else:
            rows = []
            for loss, numbers in method.losses(batch, 0):
                loss.backward()
                rows.append(numbers)
            numbers = mean_numbers(rows)
        states.append(method.state_dict())
        grads.append([p.grad for p in method.trained.parameters()])
        logged.append(numbers)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(logged[0], logged[1])
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
