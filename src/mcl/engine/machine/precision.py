"""What ``auto`` becomes: a few steps in each number format and memory layout, and the quickest is taken.

A trial is a timing, and a timing of two that are close is a coin toss. So another format than the default is
taken only if it is clearly quicker, and the choice is written down: a resumed run takes it from there.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

import torch
from torch.nn.functional import conv2d

from mcl.config.base import Command
from mcl.config.optim import LoopSettings
from mcl.engine.machine.memory import is_out_of_memory
from mcl.engine.machine.trial_length import LONG, STEPS, TrialLength
from mcl.errors import OutOfMemory

S = TypeVar("S", bound=Command)
CLEARLY = 0.9  # of the default's time or less: another number format is taken
ANOTHER_LAYOUT = 0.95  # likewise, where only the layout differs: it gives the same numbers up to rounding
HOPELESS = 2.0  # times the best so far in one step: given up
PROBE_SHAPE = (4, 64, 64, 64)  # of the convolution that tells whether a CPU computes bf16 or imitates it
TOO_SHORT = "not tried: the run is too short"


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
        """The default, unless another is clearly quicker: needs at most 95 % of its time in the same number format, 90 %
        in another (or the default cannot run)."""
        default, able = self.tried[0], [tried for tried in self.tried if tried.seconds is not None]
        best = default if default in able else min(able, key=lambda tried: tried.seconds)
        for tried in sorted(able, key=lambda tried: tried.format.precision != default.format.precision):
            same = tried.format.precision == best.format.precision
            if tried.seconds <= (ANOTHER_LAYOUT if same else CLEARLY) * best.seconds:
                best = tried
        return best

    @property
    def gain(self) -> float | None:
        """Steps of the default's time over the chosen one's; none where the default cannot run."""
        default = self.tried[0].seconds
        return default / self.chosen.seconds if default else None

    @property
    def was_too_short(self) -> bool:
        """Whether a format was left out because the run is too short for it."""
        return any(tried.note == TOO_SHORT for tried in self.tried)

    def __str__(self) -> str:
        if len(self.tried) > 1 and all(tried.note for tried in self.tried[1:]) and self.was_too_short:
            return f"takes {self.tried[0].format}: the run is too short for a trial"
        chosen, others = self.chosen, "; ".join(map(str, self.tried))
        gain = f", {self.gain:.2f} times as fast as {self.tried[0].format}" if chosen != self.tried[0] and self.gain else ""
        return f"{others} a step: takes {chosen.format}{gain} (trial of {self.seconds:.1f} s)"


def format_of(loop: LoopSettings) -> Format:
    """What is set; where ``auto`` is, the default: fp32, channels_last."""
    return Format("fp32" if loop.precision == "auto" else loop.precision, loop.channels_last is not False)


def is_free(loop: LoopSettings) -> bool:
    """Whether a trial may choose something."""
    return "auto" in (loop.precision, loop.channels_last)


def formats_for(loop: LoopSettings) -> list[Format]:
    """What is tried: the default, bf16 if the number format is free, and the other layout if that is."""
    default = format_of(loop)
    found = [default]
    if loop.precision == "auto":
        found.append(Format("bf16", default.channels_last))
    if loop.channels_last == "auto":
        found.append(Format(default.precision, not default.channels_last))
    return found


def try_formats(
    build: Callable[[Format], Callable[[], object]],
    formats: Sequence[Format],
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
    agree: Callable[[float], float] = lambda number: number,
    steps: int | None = None,
) -> Trial:
    """Time a few steps of each format, one format after the other, so that one model at a time is held.

    Args:
        build: gives a function that does one training step in a format, with weights of its own.
        formats: the default first.
        device: where the steps compute.
        clock: seconds.
        agree: makes a measured number the same on all processes of a run, so that all of them do the same steps
            and choose alike; called on each of them for the same numbers in the same order.
        steps: of the run that the trial is for: it takes about 3 s or 1 % of the run, whichever is more, and leaves
            formats out where that is not enough; none: 3 steps of each.

    Raises:
        OutOfMemory: no format has room for a step.
    """
    began, tried, best = clock(), [], None
    unfit = {chosen: why_unfit(chosen, device, agree) for chosen in formats}
    length = TrialLength(list(unfit.values()).count(""), steps)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for chosen, note in unfit.items():
            if not note and tried and not length.has_room(agree(clock() - began)):
                note = TOO_SHORT
            times, note = ([], note) if note else _time(build, chosen, device, best, clock, agree, length)
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
    build, chosen: Format, device: torch.device, best: list[float] | None, clock, agree, length: TrialLength
) -> tuple[list[float], str]:
    """(seconds of the timed steps, why there are none)."""
    times: list[float] = []
    step = None
    try:
        began = clock()
        step = build(chosen)
        building = agree(clock() - began)
        for number in count():
            _wait(device)
            began = clock()
            step()
            _wait(device)
            seconds = agree(clock() - began)
            # A GPU's first step loads kernels, so only the timed steps of one tell something.
            if best and (number or device.type == "cpu") and seconds > HOPELESS * max(best):
                return [], f"given up after a step of {seconds:.3f} s"
            if not number and device.type == "cpu" and length.is_hopeless(building, seconds):
                length.allowed = 0.0
                return [seconds], ""
            times += [seconds] if number else []
            if number and (number >= length.see(building, seconds) or sum(times) >= LONG):
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
