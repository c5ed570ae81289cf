"""How long the trial of number formats may be: that of a run is short."""

from __future__ import annotations

from dataclasses import dataclass, field

STEPS = 3  # timed of each format, after one that is not
LONG = 30.0  # seconds of timed steps that are enough, however few
SHORT, SHARE = 3.0, 0.01  # seconds, or share of the run, that the trial of a run may take: the larger


@dataclass
class TrialLength:
    """How long a trial may be.

    Args:
        formats: that are worth a step.
        of_run: steps of the run that the trial is for; none: it may be as long as it likes.
    """

    formats: int
    of_run: int | None
    rounds: int | None = field(default=None, init=False)  # timed steps of each format
    another: float = field(default=0.0, init=False)  # seconds that one more format takes at least
    allowed: float = field(default=float("inf"), init=False)  # seconds

    def is_hopeless(self, building: float, first: float) -> bool:
        """Whether the first step of all tells that no other format can be tried (it may take twice a later one's time)."""
        if self.rounds is not None or self.of_run is None:
            return False
        return 2 * (building + first) > max(SHORT, SHARE * self.of_run * first)

    def see(self, building: float, step: float) -> int:
        """Learn from the first timed step of all; returns how many are timed of each format."""
        if self.rounds is None:
            self.rounds, self.another = STEPS, building + 2 * step
            if self.of_run is not None:
                self.allowed = max(SHORT, SHARE * self.of_run * step)
                fitting = int((self.allowed / self.formats - building) / max(step, 1e-9)) - 1
                self.rounds = max(1, min(STEPS, fitting))
        return self.rounds

    def has_room(self, spent: float) -> bool:
        """Whether one more format can be tried after so many seconds."""
        return spent + self.another <= self.allowed
