"""A step's parts, the check that the encodings agree, baselines and memory."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mcl.bench.baselines import CLASSES
from mcl.bench.compare import FLOOR, compare_steps
from mcl.bench.measure import Timing, in_turn
from mcl.bench.memory import step_memory
from mcl.bench.parts import count_flops, parts_of, time_parts
from mcl.bench.step import (
    EXHAUSTIVE,
    MATCHED_ALL,
    MATCHED_FULL,
    PLAIN,
    BackboneStep,
    check_same_losses,
    step_flops,
    variants_of,
)
from mcl.config.base import from_arguments, from_values
from mcl.config.bench import BenchStepSettings
from mcl.errors import RunFailed, UserError
from mcl.methods.step import TrainingStep

TINY = {
    "batch": 4, "image_size": 32, "model.backbone": "test_resnet", "model.pyramid_channels": 16,
    "model.hidden": 32, "model.embedding": 16, "model.head_convs": 1, "method.scales": [1, 2], "loop.threads": 1,
}  # fmt: skip
CPU = torch.device("cpu")


def settings(**more) -> BenchStepSettings:
    return from_values(BenchStepSettings, {**TINY, **more})


@pytest.fixture(scope="module")
def steps() -> dict[str, TrainingStep]:
    tiny = settings()
    return {name: TrainingStep(variant, CPU) for name, variant in variants_of(tiny).items()}


@pytest.fixture(scope="module")
def counted(steps) -> dict[str, dict[str, int]]:
    """FLOPs of each side's parts, counted on tensors without data."""
    return {name: step_flops(step.settings) for name, step in steps.items()}


def test_sides_are_timed_in_turn_after_warm_up():
    order = []
    timings = in_turn({name: lambda name=name: order.append(name) for name in "ab"}, rounds=2, warmup=1)
    assert order == list("ababab")
    assert [len(timing.seconds) for timing in timings.values()] == [2, 2]
    assert Timing((1.0, 4.0, 2.0)).median == 2.0 and Timing((1.0, 4.0, 2.0)).spread == 1.5


@pytest.mark.parametrize("side", [EXHAUSTIVE, MATCHED_ALL, MATCHED_FULL])
def test_flops_without_data_are_those_of_a_real_step(steps, counted, side):
    step, parts = steps[side], counted[side]
    with FlopCounterMode(display=False) as counter:
        step()
    assert sum(parts.values()) == counter.get_total_flops()
    assert parts == count_flops(parts_of(step.method), step.gradients_only)
    assert all(
        parts[part] > 0 for part in ("backbone", "pyramid", "head", "projector", "predictors", "target")
    )


def test_backward_is_charged_to_its_part(steps, counted):
    step, parts = steps[MATCHED_ALL], counted[MATCHED_ALL]
    with torch.no_grad():
        forward = count_flops(parts_of(step.method), lambda: step.method.loss(step.batch, 0))
    assert parts["target"] == forward["target"]
    for part in ("pyramid", "head", "projector", "predictors"):
        assert parts[part] == 3 * forward[part]
    assert 2 * forward["backbone"] < parts["backbone"] < 3 * forward["backbone"]  # images get no gradient


def test_the_floor_does_what_the_backbone_of_a_step_does(steps, counted):
    with FlopCounterMode(display=False) as counter:
        BackboneStep(steps[MATCHED_ALL])()
    assert counter.get_total_flops() == counted[MATCHED_ALL]["backbone"]


def test_matched_costs_less_and_full_the_least(counted):
    totals = {name: sum(parts.values()) for name, parts in counted.items()}
    assert totals[EXHAUSTIVE] > totals[MATCHED_ALL] > totals[MATCHED_FULL]
    assert totals[PLAIN] == totals[MATCHED_ALL]


def test_seconds_of_parts_sum_to_the_step(steps):
    step = steps[MATCHED_FULL]
    seconds = time_parts(parts_of(step.method), step, step.optimizer, lambda: None)
    assert min(seconds.values()) > 0 and seconds["optimizer"] < sum(seconds.values())


def test_only_top_has_targets_of_full_size_images():
    assert MATCHED_FULL not in variants_of(settings(**{"method.assignment": "all"}))


def test_plain_gradients_are_a_side_unless_every_side_has_them():
    assert not variants_of(settings())[PLAIN].loop.matrix_gradients
    assert PLAIN not in variants_of(settings(**{"loop.matrix_gradients": False}))


def test_sides_that_agree_pass(steps):
    losses = check_same_losses(steps)
    assert set(losses) == set(steps) and max(losses.values()) - min(losses.values()) < 1e-4
    assert all(step.method.training for step in steps.values())


def test_no_speed_up_is_shown_when_a_side_computes_something_else(steps, monkeypatch):
    encoder = steps[MATCHED_ALL].method.online["encoder"]
    honest = encoder.embed_windows
    monkeypatch.setattr(encoder, "embed_windows", lambda maps: honest([0.5 * pyramid_map for pyramid_map in maps]))
    with pytest.raises(RunFailed, match="no speed-up is shown.*matched/all"):
        check_same_losses(steps)


@pytest.mark.parametrize("name", list(CLASSES))
def test_baselines_train(name):
    pytest.importorskip("lightly")
    images = torch.randn(2, 4, 3, 32, 32)
    baseline = CLASSES[name](settings(), CPU)
    before = {key: value.clone() for key, value in baseline.online.state_dict().items()}
    baseline.step(*images)
    after = baseline.online.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key, _ in baseline.online.named_parameters())
    assert all(torch.isfinite(value).all() for value in after.values())
    assert not any(parameter.requires_grad for parameter in baseline.target.parameters())


def test_without_lightly_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightly.loss", None)
    with pytest.raises(UserError, match=r"pip install 'mcl\[bench\]'"):
        compare_steps(settings(baselines=["byol"]), CPU)


def test_the_table_of_a_step(counted, monkeypatch):
    known = iter(counted.values())
    monkeypatch.setattr("mcl.bench.compare.step_flops", lambda *_: next(known))
    tables, raw = compare_steps(settings(rounds=1, warmup=0, memory=False), CPU)
    rows = {row["side"]: row for row in tables[0].rows}
    assert list(rows) == [EXHAUSTIVE, MATCHED_ALL, MATCHED_FULL, PLAIN, FLOOR]
    assert rows[EXHAUSTIVE]["speedup"] == 1.0 and rows[FLOOR]["speedup"] is None
    floor = rows[FLOOR]
    expected = rows[MATCHED_ALL]["seconds"] * floor["gflops"] / rows[MATCHED_ALL]["gflop"]
    assert rows[MATCHED_ALL]["over_floor"] == pytest.approx(expected)
    assert len(raw["seconds"][EXHAUSTIVE]) == 1


def test_memory_is_measured_in_a_process_of_its_own():
    memory = step_memory(settings(json="x.json"), MATCHED_FULL, CPU)
    assert memory["model_mb"] >= memory["process_mb"] > 50 and 0 < memory["peak_mb"] < 500


def test_lists_are_given_with_commas():
    given = from_arguments(
        BenchStepSettings, ["--baselines", "mocov2,byol", "--json", "a.json"], "mcl bench step"
    )
    assert given.baselines == ["mocov2", "byol"] and given.json_file.name == "a.json"
    with pytest.raises(UserError, match="baselines"):
        settings(baselines=["simclr"])
