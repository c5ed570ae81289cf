"""The precision trial with an injected clock: what it takes, what it gives up, and that it leaves no trace."""

from __future__ import annotations

import pytest
import torch

from mcl.config.optim import LoopSettings
from mcl.engine.machine import precision
from mcl.engine.machine.precision import Format, formats_for, try_formats
from mcl.errors import OutOfMemory

CPU = torch.device("cpu")
FREE = LoopSettings(precision="auto", channels_last="auto")
FP32, BF16, OTHER = formats_for(FREE)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Steps without a network leave nothing to be collected."""
    monkeypatch.setattr(precision.gc, "collect", lambda: 0)


class Clock:
    """Steps that take as long as they are told."""

    def __init__(self, seconds: dict[Format, float | list[float]]) -> None:
        self.seconds, self.now, self.steps, self.alive = seconds, 0.0, {}, 0

    def __call__(self) -> float:
        return self.now

    def build(self, chosen: Format):
        self.steps[chosen] = 0

        def step() -> None:
            times = self.seconds[chosen]
            self.now += times[self.steps[chosen]] if isinstance(times, list) else times
            self.steps[chosen] += 1
            torch.rand(3)

        return step


def trial(monkeypatch, seconds, slowdown: float = 0.5, steps: int | None = None):
    monkeypatch.setattr(precision, "bf16_slowdown", lambda: slowdown)
    clock = Clock(seconds)
    return try_formats(clock.build, list(seconds), CPU, clock, steps=steps), clock


def test_what_is_set_is_not_tried_and_the_default_comes_first():
    assert [Format("fp32", True), Format("bf16", True), Format("fp32", False)] == [FP32, BF16, OTHER]
    assert formats_for(LoopSettings(precision="fp32")) == [FP32, OTHER]
    assert formats_for(LoopSettings(channels_last=False)) == [OTHER, Format("bf16", False)]
    assert formats_for(LoopSettings(precision="bf16")) == [BF16, Format("bf16", False)]
    assert formats_for(LoopSettings(precision="bf16", channels_last=False)) == [Format("bf16", False)]
    assert LoopSettings() == FREE and str(FP32) == "fp32, channels_last"


def test_a_layout_is_taken_sooner_than_another_number_format(monkeypatch):
    assert trial(monkeypatch, {FP32: 1.0, BF16: 0.92, OTHER: 0.94})[0].chosen.format == OTHER
    assert trial(monkeypatch, {FP32: 1.0, BF16: 0.7, OTHER: 0.75})[0].chosen.format == OTHER, "bf16 is hardly quicker"
    assert trial(monkeypatch, {FP32: 1.0, BF16: 0.6, OTHER: 0.75})[0].chosen.format == BF16


def test_the_ratio_is_told(monkeypatch):
    found, _ = trial(monkeypatch, {FP32: 1.0, BF16: 0.5, OTHER: 1.0})
    assert found.gain == 2.0 and "takes bf16, channels_last, 2.00 times as fast as fp32, channels_last" in str(found)


@pytest.mark.parametrize(
    ("step", "steps", "counts"),
    [
        (0.01, 100, [4, 4, 4]),  # 3 seconds are plenty
        (0.4, 100, [2, 2, 2]),  # 3 seconds: a step to warm up and one that is timed
        (0.7, 100, [2, 2, 0]),  # too short for all
        (1.0, 100, [2, 0, 0]),  # too short for any but the default
        (1.6, 100, [1, 0, 0]),  # which the first step has told
        (1.0, 1500, [4, 4, 4]),  # 1 % of it is 15 steps
    ],
)
def test_the_trial_of_a_run_is_short(monkeypatch, step, steps, counts):
    found, clock = trial(monkeypatch, {FP32: step, BF16: step / 1.5, OTHER: step}, steps=steps)
    assert [clock.steps.get(chosen, 0) for chosen in (FP32, BF16, OTHER)] == counts
    assert found.seconds <= max(3.0, 0.01 * step * steps) + 1e-9
    assert found.was_too_short is (0 in counts) and ("the run is too short" in str(found)) is found.was_too_short
    assert found.chosen.format == (FP32 if counts[1] == 0 else BF16)


def test_what_is_not_tried_leaves_its_time_to_the_others(monkeypatch):
    _, clock = trial(monkeypatch, {FP32: 0.4, BF16: 0.4, OTHER: 0.4}, slowdown=9.0, steps=100)
    assert clock.steps == {FP32: 3, OTHER: 3}


def test_what_is_clearly_quicker_is_taken(monkeypatch):
    found, clock = trial(monkeypatch, {FP32: 1.0, BF16: 0.6, OTHER: 0.8})
    assert found.chosen.format == BF16 and found.chosen.seconds == pytest.approx(0.6)
    assert clock.steps == {FP32: 4, BF16: 4, OTHER: 4}, "one to warm up, three timed"
    assert found.seconds == pytest.approx(9.6)
    assert "fp32, channels_last 1.000 s" in str(found) and "takes bf16, channels_last" in str(found)


def test_what_is_hardly_quicker_is_not(monkeypatch):
    assert trial(monkeypatch, {FP32: 1.0, BF16: 0.91, OTHER: 0.96})[0].chosen.format == FP32


def test_a_hopeless_format_is_given_up_in_its_first_step(monkeypatch):
    found, clock = trial(monkeypatch, {FP32: 1.0, BF16: 2.5, OTHER: 1.5})
    assert clock.steps == {FP32: 4, BF16: 1, OTHER: 4} and found.chosen.format == FP32
    assert found.tried[1].seconds is None and "given up after a step of 2.500 s" in str(found)


def test_bf16_without_instructions_costs_no_step(monkeypatch):
    found, clock = trial(monkeypatch, {FP32: 1.0, BF16: 10.0, OTHER: 1.0}, slowdown=11.3)
    assert BF16 not in clock.steps and "11.3 times as long" in found.tried[1].note


def test_the_quickest_step_counts_so_a_busy_second_does_not_decide(monkeypatch):
    found, _ = trial(monkeypatch, {FP32: [5.0, 1.0, 1.9, 1.0], BF16: [1.0, 0.95, 0.95, 1.9]})
    assert found.chosen.format == FP32


def test_long_steps_are_timed_fewer_times(monkeypatch):
    found, clock = trial(monkeypatch, {FP32: 20.0, OTHER: 50.0})
    assert clock.steps == {FP32: 3, OTHER: 1} and found.chosen.seconds == 20.0


def test_processes_decide_by_numbers_that_they_agree_on(monkeypatch):
    """Here bf16 seems quick; together with a slower process it is not."""
    monkeypatch.setattr(precision, "bf16_slowdown", lambda: 0.5)
    clock = Clock({FP32: 1.0, BF16: 0.5})
    asked = []
    agree = lambda number: asked.append(number) or 1.0  # noqa: E731
    found = try_formats(clock.build, [FP32, BF16], CPU, clock, agree)
    assert found.chosen.format == FP32 and asked == [0.5, 0.0, *[1.0] * 4, 4.0, 0.0, *[0.5] * 4], "bf16's slowness, building and steps, what they took"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("too large"), MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=type,
)  # fmt: skip
def test_what_does_not_fit_memory_is_not_taken(monkeypatch, error):
    monkeypatch.setattr(precision, "bf16_slowdown", lambda: 0.5)

    def build(chosen):
        def step():
            if chosen.precision == "fp32":
                raise error

        return step

    assert try_formats(build, formats_for(FREE), CPU).chosen.format == BF16
    with pytest.raises(OutOfMemory, match="no step fits: fp32, channels_last does not fit the machine's memory; fp32"):
        try_formats(build, [FP32, OTHER], CPU)


def test_other_errors_of_a_trial_are_not_taken_for_a_lack_of_memory(monkeypatch):
    def build(chosen):
        raise RuntimeError("expected scalar type")

    with pytest.raises(RuntimeError, match="scalar type"):
        try_formats(build, [FP32], CPU)


def test_a_trial_leaves_the_random_numbers_alone(monkeypatch):
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    trial(monkeypatch, {FP32: 1.0, BF16: 1.0})
    assert torch.equal(torch.rand(2), expected)


def test_the_probe_measures_a_real_convolution():
    assert 0.01 < precision.bf16_slowdown() < 1000
