"""Watchdogs: read the numbers that a run logs and say in one sentence when they look wrong, and what to try.

Nothing here changes the training, so none of it is in a checkpoint: a resumed run ends bit for bit where an
uninterrupted one ends, and the watchdogs judge again once they have seen enough steps.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mcl.config.watch import WatchSettings

LEAST_STEPS = 20  # before these many steps nothing is usual yet
LEAST_LINES = 3
LEAST_DEVIATION = 0.02  # of the median: a loss that hardly moves must not make a tremor a spike
NORMAL = 1.4826  # median absolute deviation -> standard deviation, for a normal distribution
LEARNING = 0.2  # a level learns when it is this far from chance to perfect
#: what to try, by kind of warning, if the caller has no better advice; the other kinds compute theirs
ADVICE = {
    "collapse_spread": "try a lower --optim.lr or more --schedule.warmup_steps",
    "collapse_rank": "try a lower --optim.lr or more --schedule.warmup_steps",
    "loss_spike": "if it stays up, go back to a checkpoint with a lower --optim.lr, more --schedule.warmup_steps or a "
    "lower --optim.clip_norm",
    "gradient_growth": "try a lower --optim.lr or more --schedule.warmup_steps",
    "dead_level": "its share of the loss may be too small, or what it sees shows too little",
    "gpu_memory": "try --loop.precision bf16",
}


@dataclass(frozen=True)
class Alarm:
    """One thing that looks wrong.

    Attributes:
        step: steps done when it was seen.
        kind: the setting (``watch.<kind>``) whose threshold was passed.
        text: one sentence with the figure and what to try.
    """

    step: int
    kind: str
    text: str


@dataclass
class Watch:
    """Fed with every logged line; returns what begins to look wrong.

    A warning is said when it begins, and again only after its numbers were fine for ``window`` steps.

    Args:
        settings: thresholds. Those that a command does not have (``collapse_spread``) are off.
        workers: loader processes, for the advice on data.
        cores: CPU cores that the run may use, for the same.
        advice: kind -> what to try; over ``ADVICE``.
    """

    settings: WatchSettings
    workers: int = 0
    cores: int = 1
    advice: Mapping[str, str] = field(default_factory=dict)
    _steps: dict[str, deque[float]] = field(default_factory=dict)
    _lines: deque[tuple[int, Mapping[str, float]]] = field(default_factory=deque)
    _lowest_norm: float = float("inf")
    _last_seen: dict[str, int] = field(default_factory=dict)
    _last_step: int = 0
    _is_first: bool = True

    def see(self, step: int, values: Mapping[str, float], each: Mapping[str, Sequence[float]]) -> list[Alarm]:
        """Judge one logged line.

        Args:
            step: steps done.
            values: averages of the line; missing ones switch their watchdog off.
            each: ``loss`` and ``gradient_norm`` of every step since the last line.

        Returns:
            The warnings that begin with this line.
        """
        self._remember_line(step, values, len(each["loss"]))
        found = {
            "collapse_spread": self._collapse(values, "spread", "spread {:.3f}, 1 is fully spread"),
            "collapse_rank": self._collapse(values, "rank", "they lie in {:.1f} directions"),
            "loss_spike": self._loss_spike(step, each["loss"]),
            "gradient_spike": self._gradient_spike(step, each.get("gradient_norm", ())),
            "gradient_growth": self._gradient_growth(),
            "dead_level": self._dead_level(),
            "data_wait": self._data_wait(),
            "gpu_memory": self._gpu_memory(values),
        }
        for name, numbers in each.items():
            self._usual(name).extend(numbers)
        begun = [Alarm(step, kind, text) for kind, text in found.items() if text and self._begins(kind, step)]
        self._last_seen |= {kind: step for kind, text in found.items() if text}
        self._last_step = step
        return begun

    def _collapse(self, values: Mapping[str, float], name: str, figure: str) -> str | None:
        limit = self._limit(f"collapse_{name}")
        if limit is None or name not in values or values[name] >= limit:
            return None
        return (
            f"the embeddings have collapsed ({figure.format(values[name])}): images get nearly the same one; "
            f"{self._advice(f'collapse_{name}')}"
        )

    def _loss_spike(self, step: int, losses: Sequence[float]) -> str | None:
        limit, usual = self._limit("loss_spike"), self._usual("loss")
        if limit is None or len(usual) < LEAST_STEPS or not losses:
            return None
        middle = statistics.median(usual)
        deviation = NORMAL * statistics.median(abs(loss - middle) for loss in usual)
        highest = max(losses)
        if highest <= middle + limit * max(deviation, LEAST_DEVIATION * abs(middle)):
            return None
        at = step - len(losses) + 1 + list(losses).index(highest)
        return (
            f"the loss jumped to {highest:.3g} at step {at} (median of the {len(usual)} steps before: {middle:.3g}); "
            f"{self._advice('loss_spike')}"
        )

    def _gradient_spike(self, step: int, norms: Sequence[float]) -> str | None:
        limit, usual = self._limit("gradient_spike"), self._usual("gradient_norm")
        if limit is None or len(usual) < LEAST_STEPS or not norms:
            return None
        middle, highest = statistics.median(usual), max(norms)
        if highest <= limit * middle:
            return None
        at = step - len(norms) + 1 + list(norms).index(highest)
        return (
            f"the gradient norm jumped to {highest:.3g} at step {at}, {_times(highest, middle)} its median of the "
            f"{len(usual)} steps before; a --optim.clip_norm of about {3 * middle:.2g} keeps such steps small"
        )

    def _gradient_growth(self) -> str | None:
        limit, usual = self._limit("gradient_growth"), self._usual("gradient_norm")
        if limit is None or len(usual) < LEAST_STEPS:
            return None
        middle = statistics.median(usual)
        self._lowest_norm = min(self._lowest_norm, middle)
        if middle <= limit * self._lowest_norm:
            return None
        return (
            f"the gradient norm has grown to {middle:.3g}, {_times(middle, self._lowest_norm)} its lowest running "
            f"median: training is about to diverge; {self._advice('gradient_growth')}"
        )

    def _dead_level(self) -> str | None:
        limit = self._limit("dead_level")
        chance = self._recent("chance")
        if limit is None or chance is None:
            return None
        names = [name for name in self._lines[-1][1] if name.startswith("accuracy/")]
        levels = {name.partition("/")[2]: self._recent(name) for name in names}
        above = {
            level: (found - chance) / (1 - chance) for level, found in levels.items() if found is not None
        }
        if len(above) < 2:
            return None
        best = max(above, key=above.__getitem__)
        dead = sorted(level for level, excess in above.items() if excess < limit * above[best])
        if above[best] < LEARNING or not dead:
            return None
        reached = ", ".join(f"{levels[level]:.1%}" for level in dead)
        return (
            f"level {' and '.join(dead)} learns nothing (accuracy {reached}, chance {chance:.1%}, {best} reaches "
            f"{levels[best]:.1%}): {self._advice('dead_level')}"
        )

    def _data_wait(self) -> str | None:
        limit, share = self._limit("data_wait"), self._recent("data_wait")
        if limit is None or share is None or share <= limit:
            return None
        if self.workers < self.cores:
            advice = f"try --loop.workers {min(self.cores, max(2, 2 * self.workers))} (now {self.workers})"
        else:
            advice = (
                f"--loop.workers is {self.workers} and there are {self.cores} cores, so more of them hardly help: "
                "store the images smaller or on a faster disk"
            )
        return f"{share:.0%} of the time the training waits for data; {advice}"

    def _gpu_memory(self, values: Mapping[str, float]) -> str | None:
        limit = self._limit("gpu_memory")
        if limit is None or values.get("gpu_memory", 0.0) <= limit:
            return None
        return (
            f"{values['gpu_memory']:.0%} of the GPU's memory is taken: a larger batch of pictures or another process "
            f"can end the run; {self._advice('gpu_memory')}"
        )

    def _remember_line(self, step: int, values: Mapping[str, float], steps: int) -> None:
        # The first line has the start of the workers and of the GPU in its times: it says nothing about later ones.
        if not self._is_first:
            self._lines.append((steps, values))
        self._is_first = False
        while len(self._lines) > LEAST_LINES and sum(n for n, _ in self._lines) > self.settings.window:
            self._lines.popleft()

    def _recent(self, name: str) -> float | None:
        """Median over the lines of the last ``window`` steps; none before there are enough."""
        found = [(count, values[name]) for count, values in self._lines if name in values]
        if sum(count for count, _ in found) < LEAST_STEPS or len(found) < LEAST_LINES:
            return None
        return statistics.median(value for _, value in found)

    def _usual(self, name: str) -> deque[float]:
        return self._steps.setdefault(name, deque(maxlen=self.settings.window))

    def _advice(self, kind: str) -> str:
        return {**ADVICE, **self.advice}[kind]

    def _limit(self, name: str) -> float | None:
        return getattr(self.settings, name, None)

    def _begins(self, kind: str, step: int) -> bool:
        before = self._last_seen.get(kind)
        return before is None or (before != self._last_step and step - before > self.settings.window)


def _times(value: float, usual: float) -> str:
    return f"{value / usual:.0f} times" if usual > 0 else "far above"
