"""``loop.precision auto``: a few steps in each number format and memory layout, and the quickest is taken.

A trial is a timing, and a timing of two that are close is a coin toss. So another format than the default is
taken only if it is clearly quicker, and the choice is written down: a resumed run takes it from there.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch.nn.functional import conv2d

from mcl.config.base import Command
from mcl.engine.machine.memory import is_out_of_memory
from mcl.errors import OutOfMemory

S = TypeVar("S", bound=Command)
STEPS = 3  # timed, after one that is not
LONG = 30.0  # seconds of timed steps that are enough, however few
CLEARLY = 0.9  # of the default's time or less: taken
HOPELESS = 2.0  # times the best so far in one step: given up
PROBE_SHAPE = (4, 64, 64, 64)  # of the convolution that tells whether a CPU computes bf16 or imitates it


@dataclass(frozen=True)
class Format:
    """How numbers are computed and how images lie in memory."""

    precision: str
    channels_last: bool

    def __str__(self) -> str:
        return f"{self.precision}, {'channels_last' if self.channels_last else 'contiguous'}"


@dataclass(frozen=True)
class Tried:
    """One format: seconds of its quickest step, or why there are none."""

    format: Format
    seconds: float | None
    note: str = ""

    def __str__(self) -> str:
        return f"{self.format} {self.note or f'{self.seconds:.3f} s'}"


@dataclass(frozen=True)
class Trial:
    """What a trial found.

    Attributes:
        tried: the default first.
        seconds: what the trial took.
    """

    tried: tuple[Tried, ...]
    seconds: float

    @property
    def chosen(self) -> Tried:
        """The default, unless another needs at most 90 % of its time (or the default cannot run)."""
        default = self.tried[0]
        best = min((t for t in self.tried if t.seconds is not None), key=lambda t: t.seconds)
        keep = default.seconds is not None and best.seconds > CLEARLY * default.seconds
        return default if keep else best

    def __str__(self) -> str:
        return f"{'; '.join(map(str, self.tried))} a step: takes {self.chosen.format} (trial of {self.seconds:.1f} s)"


def formats_for(channels_last: bool) -> list[Format]:
    """What is tried: fp32 in the layout that is set (the default), bf16, and fp32 in the other layout."""
    return [Format("fp32", channels_last), Format("bf16", True), Format("fp32", not channels_last)]


def try_formats(
    build: Callable[[Format], Callable[[], object]],
    formats: Sequence[Format],
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
    agree: Callable[[float], float] = lambda number: number,
) -> Trial:
    """Time a few steps of each format, one format after the other, so that one model at a time is held.

    Args:
        build: gives a function that does one training step in a format, with weights of its own.
        formats: the default first.
        device: where the steps compute.
        clock: seconds.
        agree: makes a measured number the same on all processes of a run, so that all of them do the same steps
            and choose alike; called on each of them for the same numbers in the same order.

    Raises:
        OutOfMemory: no format has room for a step.
    """
    began, tried, best = clock(), [], None
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        for chosen in formats:
            note = why_unfit(chosen, device, agree)
            times, note = ([], note) if note else _time(build, chosen, device, best, clock, agree)
            tried.append(Tried(chosen, min(times) if times and not note else None, note))
            if tried[-1].seconds is not None and (best is None or tried[-1].seconds < min(best)):
                best = times
    if best is None:
        raise OutOfMemory(f"no step fits: {'; '.join(map(str, tried))}")
    return Trial(tuple(tried), clock() - began)


def with_format(settings: S, chosen: Format) -> S:
    """The settings of a command, computing in a format."""
    loop = settings.loop.model_copy(
        update={"precision": chosen.precision, "channels_last": chosen.channels_last}
    )
    return settings.model_copy(update={"loop": loop})


def _time(
    build, chosen: Format, device: torch.device, best: list[float] | None, clock, agree
) -> tuple[list[float], str]:
    """(seconds of the timed steps, why there are none)."""
    times: list[float] = []
    step = None
    try:
        step = build(chosen)
        for number in range(STEPS + 1):
            _wait(device)
            began = clock()
            step()
            _wait(device)
            seconds = agree(clock() - began)
            # A GPU's first step loads kernels, so only the timed steps of one tell something.
            if best and (number or device.type == "cpu") and seconds > HOPELESS * max(best):
                return [], f"given up after a step of {seconds:.3f} s"
            times += [seconds] if number else []
            if sum(times) >= LONG:
                break
        return times, ""
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return [], f"does not fit {'the GPU' if device.type == 'cuda' else 'the machine'}'s memory"
    finally:
        del step
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def why_unfit(
    chosen: Format, device: torch.device, agree: Callable[[float], float] = lambda number: number
) -> str:
    """Why a format is not worth a step, or nothing."""
    if chosen.precision != "bf16":
        return ""
    if device.type == "cuda":
        return "" if torch.cuda.is_bf16_supported() else "not tried: this GPU has no bf16"
    slower = agree(bf16_slowdown())
    return f"not tried: a bf16 convolution takes {slower:.1f} times as long here" if slower > HOPELESS else ""


def bf16_slowdown() -> float:
    """Time of a bf16 convolution on this CPU over that of an fp32 one (10 and more without instructions for it)."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        images = torch.ones(PROBE_SHAPE, dtype=dtype).contiguous(memory_format=torch.channels_last)
        weight = torch.ones((PROBE_SHAPE[1], PROBE_SHAPE[1], 3, 3), dtype=dtype)
        rounds = []
        for _ in range(STEPS + 1):
            began = time.perf_counter()
            with torch.no_grad():
                conv2d(images, weight, padding=1)
            rounds.append(time.perf_counter() - began)
        seconds[dtype] = min(rounds)
    return seconds[torch.bfloat16] / seconds[torch.float32]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
