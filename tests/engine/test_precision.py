"""The precision trial with an injected clock: what it takes, what it gives up, and that it leaves no trace."""

from __future__ import annotations

import pytest
import torch

from mcl.engine.machine import precision
from mcl.engine.machine.precision import Format, formats_for, try_formats
from mcl.errors import OutOfMemory

CPU = torch.device("cpu")
FP32, BF16, OTHER = formats_for(True)


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


def trial(monkeypatch, seconds, slowdown: float = 0.5):
    monkeypatch.setattr(precision, "bf16_slowdown", lambda: slowdown)
    clock = Clock(seconds)
    return try_formats(clock.build, list(seconds), CPU, clock), clock


def test_formats_begin_with_the_default():
    assert formats_for(True) == [Format("fp32", True), Format("bf16", True), Format("fp32", False)]
    assert formats_for(False)[0] == Format("fp32", False) and str(FP32) == "fp32, channels_last"


def test_what_is_clearly_quicker_is_taken(monkeypatch):
    found, clock = trial(monkeypatch, {FP32: 1.0, BF16: 0.6, OTHER: 0.8})
    assert found.chosen.format == BF16 and found.chosen.seconds == pytest.approx(0.6)
    assert clock.steps == {FP32: 4, BF16: 4, OTHER: 4}, "one to warm up, three timed"
    assert found.seconds == pytest.approx(9.6)
    assert "fp32, channels_last 1.000 s" in str(found) and "takes bf16, channels_last" in str(found)


def test_what_is_hardly_quicker_is_not(monkeypatch):
    assert trial(monkeypatch, {FP32: 1.0, BF16: 0.95, OTHER: 0.91})[0].chosen.format == FP32


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
    assert found.chosen.format == FP32 and asked == [*[1.0] * 4, 0.5, *[0.5] * 4]


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

    assert try_formats(build, formats_for(True), CPU).chosen.format == BF16
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
