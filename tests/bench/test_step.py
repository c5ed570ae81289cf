"""A step's parts, the check that the encodings agree, baselines and memory."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mcl.bench import compare
from mcl.bench.compare import FLOOR, compare_steps
from mcl.bench.components import time_components
from mcl.bench.measure import Timing, in_turn
from mcl.bench.memory import step_memory
from mcl.bench.step import (
    BackboneStep,
    baselines_of,
    best_layout,
    check_same_losses,
    in_bf16,
    variants_of,
)
from mcl.config.base import from_arguments, from_values
from mcl.config.bench import BenchStepSettings
from mcl.engine.machine.precision import Format, Trial, Tried
from mcl.errors import OutOfMemory, RunFailed, UserError
from mcl.methods.flops import count_flops, step_flops
from mcl.methods.mcl.variants import EXHAUSTIVE, MATCHED_ALL, MATCHED_FULL
from mcl.methods.step import TrainingStep

TINY = {
    "batch": 4, "image_size": 32, "model.backbone": "test_resnet", "model.pyramid_channels": 16,
    "model.hidden": 32, "model.embedding": 16, "model.head_convs": 1, "method.scales": [1, 2], "loop.threads": 1,
}  # fmt: skip
CPU, PLAIN = torch.device("cpu"), f"{MATCHED_ALL}, plain"
HELPED = f"{EXHAUSTIVE}, matrix gradients"


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
    assert parts == count_flops(step.method.components(), step.gradients_only)
    assert all(
        parts[part] > 0 for part in ("backbone", "pyramid", "head", "projector", "predictors", "target")
    )


def test_backward_is_charged_to_its_part(steps, counted):
    step, parts = steps[MATCHED_ALL], counted[MATCHED_ALL]
    with torch.no_grad():
        forward = count_flops(step.method.components(), lambda: step.method.loss(step.batch, 0))
    assert parts["target"] == forward["target"]
    for part in ("pyramid", "head", "projector", "predictors"):
        assert parts[part] == 3 * forward[part]
    assert 2 * forward["backbone"] < parts["backbone"] < 3 * forward["backbone"]  # images get no gradient


def test_the_floor_does_what_the_backbone_of_a_step_does(steps, counted):
    floor = BackboneStep(steps[MATCHED_ALL])
    with FlopCounterMode(display=False) as counter:
        floor()
    assert counter.get_total_flops() == counted[MATCHED_ALL]["backbone"]


def test_matched_costs_less_and_full_the_least(counted):
    totals = {name: sum(parts.values()) for name, parts in counted.items()}
    assert totals[EXHAUSTIVE] > totals[MATCHED_ALL] > totals[MATCHED_FULL]
    assert totals[PLAIN] == totals[MATCHED_ALL]


def test_seconds_of_parts_sum_to_the_step(steps):
    step = steps[MATCHED_FULL]
    seconds = time_components(step.method.components(), step, step.optimizer, lambda: None)
    assert min(seconds.values()) > 0 and seconds["optimizer"] < sum(seconds.values())


def test_only_top_has_targets_of_full_size_images():
    assert MATCHED_FULL not in variants_of(settings(**{"method.assignment": "all"}))


def test_the_authors_way_has_plain_gradients_and_a_row_with_ours():
    sides = variants_of(settings())
    ours = {name: side.loop.matrix_gradients for name, side in sides.items()}
    assert ours == {EXHAUSTIVE: False, HELPED: True, MATCHED_ALL: True, MATCHED_FULL: True, PLAIN: False}
    assert sides[HELPED].method == sides[EXHAUSTIVE].method and sides[PLAIN].method == sides[MATCHED_ALL].method
    assert list(variants_of(settings(**{"loop.matrix_gradients": False}))) == [EXHAUSTIVE, MATCHED_ALL, MATCHED_FULL]
    for given, all_in in (("auto", "fp32"), ("fp32", "fp32"), ("bf16", "bf16")):
        assert {side.loop.precision for side in variants_of(settings(**{"loop.precision": given})).values()} == {all_in}
    assert in_bf16(settings(**{"loop.precision": "bf16"}), CPU) == {}, "a row of its own only beside fp32"


@pytest.mark.parametrize(
    ("times", "wanted", "told"),
    [
        ({True: 2.0, False: 1.0}, False, "fp32, contiguous"),
        ({True: 1.0, False: 1.5}, True, "fp32, channels_last"),
        ({True: 1.0, False: 1.02}, True, "fp32, either"),
        ({True: None, False: 3.0}, False, "fp32, contiguous"),
    ],
)
def test_each_side_gets_its_own_best_layout(times, wanted, told, monkeypatch):
    tried = tuple(Tried(Format("fp32", layout), seconds) for layout, seconds in times.items())
    monkeypatch.setattr("mcl.bench.step.try_formats", lambda *_: Trial(tried, 1.0))
    side, name = best_layout(settings(), CPU)
    assert side.loop.channels_last is wanted and name == told


def test_a_side_that_is_too_large_is_left_out_and_named(monkeypatch):
    def layout(side, device):
        if side.method.encode == "exhaustive":
            raise OutOfMemory("no step fits")
        return side, "fp32, either"

    monkeypatch.setattr(compare, "best_layout", layout)
    monkeypatch.setattr(compare, "in_bf16", lambda *_: {})
    given = settings(batch=4, image_size=32, rounds=1, warmup=0, memory=False, parts=False)
    (times, _), raw = compare.compare_steps(given, CPU)
    assert raw["too_large"] == [EXHAUSTIVE, HELPED] and any("left out: exhaustive" in note for note in times.notes)
    rows = {row["side"]: row for row in times.rows}
    assert EXHAUSTIVE not in rows and rows[MATCHED_ALL]["speedup"] is None and rows[MATCHED_ALL]["seconds"] > 0
    monkeypatch.setattr(compare, "best_layout", lambda *_: (_ for _ in ()).throw(OutOfMemory("no step fits")))
    with pytest.raises(OutOfMemory, match="no step fits"):
        compare.compare_steps(given, CPU)


def test_bf16_is_a_row_where_the_machine_computes_it(monkeypatch):
    for why, rows in (("", [f"{MATCHED_ALL}, bf16"]), ("not tried: 20 times as long", [])):
        monkeypatch.setattr("mcl.bench.step.why_unfit", lambda *_, why=why: why)
        assert list(in_bf16(settings(), CPU)) == rows


def test_sides_that_agree_pass(steps):
    losses = check_same_losses(steps)
    assert set(losses) == set(steps) and max(losses.values()) - min(losses.values()) < 1e-4
    assert all(step.method.training for step in steps.values())


def test_no_speed_up_is_shown_when_a_side_computes_something_else(steps, monkeypatch):
    encoder = steps[MATCHED_ALL].method.online["encoder"]
    honest = encoder.read
    halved = lambda maps, boxes=None: honest({s: 0.5 * pyramid_map for s, pyramid_map in maps.items()}, boxes)  # noqa: E731
    monkeypatch.setattr(encoder, "read", halved)
    with pytest.raises(RunFailed, match="no speed-up is shown.*matched/all"):
        check_same_losses(steps)


def test_the_table_of_a_step(counted, monkeypatch):
    known = iter(counted.values())
    monkeypatch.setattr("mcl.bench.compare.step_flops", lambda *_: next(known))
    monkeypatch.setattr("mcl.bench.compare.in_bf16", lambda *_: {})
    tables, raw = compare_steps(settings(rounds=1, warmup=0, memory=False), CPU)
    rows = {row["side"]: row for row in tables[0].rows}
    assert list(rows) == [EXHAUSTIVE, MATCHED_ALL, MATCHED_FULL, HELPED, PLAIN, FLOOR]
    assert all(row["format"].startswith("fp32, ") for row in rows.values())
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
    with pytest.raises(UserError, match="no method 'moco'.*did you mean"):
        baselines_of(settings(baselines=["moco"]))
