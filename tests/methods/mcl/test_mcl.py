"""The method as a whole: gradients flow where they should, assignments run, options change what they say."""

from __future__ import annotations

import pytest
import torch

from levels import levels_of, random_batch
from mcl.config.pretrain import ModelSettings
from mcl.errors import UserError
from mcl.methods.level_loss import total_loss
from mcl.methods.mcl.method import Mcl
from mcl.methods.mcl.micro_batches import MicroBatch
from mcl.methods.mcl.settings import MclSettings
from mcl.methods.mcl.tiles import tiles_of
from mcl.methods.montage import assemble
from mcl.nn.parts import prefixes_of
from mcl.nn.trunk import Trunk, TrunkSpec


def small(seed: int = 0, **method) -> Mcl:
    torch.manual_seed(seed)
    trunk = Trunk(TrunkSpec("test_resnet", 16, 2, image_size=64))
    return Mcl(trunk, ModelSettings(hidden=32, embedding=16), MclSettings(**method), seed=0)


def batch(n: int, seed: int = 0) -> dict:
    g = torch.Generator().manual_seed(seed)
    return random_batch(n, (1, 2, 4, 8), g)


@pytest.mark.parametrize("assignment", ["top", "same", "adjacent", "all"])
@pytest.mark.parametrize("n", [5, 32])
def test_every_assignment_trains_everything_online_and_nothing_of_the_target(assignment, n):
    method = small(assignment=assignment).train()
    loss, numbers = method.loss(batch(n), step=0)
    loss.backward()
    assert torch.isfinite(loss) and {"spread", "loss/p2", "positive_cosine/p3", "accuracy/p4"} <= set(numbers)
    assert numbers["chance"] == pytest.approx(1 / n, rel=0.5) and not numbers["accuracy/p2"].requires_grad
    without = [name for name, p in method.trained.named_parameters() if p.grad is None]
    assert without == [] and all(p.grad is None for p in method.target.parameters())


def test_scales_leave_out_the_levels_they_do_not_reach():
    method = small(scales=[1, 2]).train()
    loss, numbers = method.loss(batch(8), step=0)
    loss.backward()
    assert {name for name in numbers if name.startswith("loss/")} == {"loss/p5", "loss/p4"}
    assert method.trunk.backbone.fpn.layer_blocks[0][0].weight.grad is None


@pytest.mark.parametrize("target_canvases", ["all", "full"])
def test_a_finer_start_trains_the_levels_below_and_the_laterals_above(target_canvases):
    torch.manual_seed(0)
    trunk = Trunk(TrunkSpec("test_resnet", 16, 2, image_size=64, finer=2))
    settings = MclSettings(scales=[1, 2], target_canvases=target_canvases)
    method = Mcl(trunk, ModelSettings(hidden=32, embedding=16), settings, seed=0).train()
    loss, numbers = method.loss(batch(8), step=0)
    loss.backward()
    assert {name for name in numbers if name.startswith("loss/")} == {"loss/p3", "loss/p2"}
    assert method.trained_parts == ("backbone", "p2", "p3", "head") and "p4, p5" in method.notes(8)[-1]
    moved = {name for name, weight in method.trunk.named_parameters() if weight.grad is not None}
    taken = prefixes_of(method.trained_parts)
    assert moved == {name for name, _ in method.trunk.named_parameters() if name.startswith(taken)}
    assert any(name.startswith("backbone.fpn.inner_blocks.3") for name in moved)


def test_tiles_below_p2_are_refused():
    trunk = Trunk(TrunkSpec("test_resnet", 16, 2, image_size=64, finer=1))
    with pytest.raises(UserError, match=r"below P2; use --method.scales '\[1, 2, 4\]'"):
        Mcl(trunk, ModelSettings(hidden=32, embedding=16), MclSettings(), seed=0)


def test_targets_of_all_canvases_equal_the_authors_and_full_ones_only_in_eval_mode():
    data = batch(16)
    losses = {}
    for mode in ("train", "eval"):
        for name, options in {
            "authors": {"encode": "exhaustive"},
            "all": {},
            "full": {"target_canvases": "full"},
        }.items():
            method = small(**options).train(mode == "train")
            losses[mode, name] = targets_of(method, data)
    torch.testing.assert_close(losses["train", "all"], losses["train", "authors"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses["eval", "full"], losses["eval", "authors"], rtol=1e-4, atol=1e-5)
    assert (losses["train", "full"] - losses["train", "authors"]).abs().max() > 0.05


def targets_of(method: Mcl, data: dict) -> torch.Tensor:
    return method.read_target(MicroBatch(*prepared(method, data), 0), 1).embeddings[1]


def prepared(method: Mcl, data: dict):
    shuffles = {v: method.draw_shuffle(len(data["index"]), 0, v) for v in (1, 2)}
    spec = method.trunk.spec
    return {v: assemble(tiles_of(data["views"], v), shuffles[v], spec.mean, spec.std) for v in (1, 2)}, shuffles


def test_perturbing_the_online_network_leaves_the_targets_unchanged():
    method, data = small().eval(), batch(4)
    before = targets_of(method, data)
    with torch.no_grad():
        for parameter in method.online.parameters():
            parameter.add_(0.3)
    assert torch.equal(before, targets_of(method, data))


def test_shuffles_differ_by_view_step_and_rank_and_repeat():
    method = small()
    draw = lambda *numbers: method.draw_shuffle(32, *numbers).labels[4]  # noqa: E731
    assert torch.equal(draw(3, 1), draw(3, 1))
    for other in (draw(3, 2), draw(4, 1), draw(3, 1, 1)):
        assert not torch.equal(draw(3, 1), other)


def test_without_predictor_there_is_none():
    method = small(predictor=False)
    assert not any("predictor" in name for name in method.state_dict())
    assert torch.isfinite(method.loss(batch(4), 0)[0])


def test_a_few_steps_lower_the_loss_on_images_that_differ():
    method = small(temperature=0.2).train()
    optimizer = torch.optim.AdamW(method.trained.parameters(), 3e-3)
    data, losses = batch(16), []
    for step in range(12):
        loss = total_loss(list(levels_of(method, *prepared(method, data))[0].values()))
        loss.backward()
        optimizer.step(), optimizer.zero_grad()
        method.after_update(step, 12)
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
