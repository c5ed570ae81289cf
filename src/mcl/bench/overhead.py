"""``mcl bench loop``: where a run's wall time goes outside the model's step."""

from __future__ import annotations

from mcl.bench.stopwatch import Stopwatch
from mcl.bench.tables import Table
from mcl.engine.observer import CHECKPOINT, DATA, LOGGING, LOOP, STEP
from mcl.errors import RunFailed

OTHER = "other Python"
COLUMNS = {
    "what": ("part of the loop", "{}"), "seconds": ("time", "{:.3f} s"), "share": ("share", "{:.2%}"),
    "each": ("each", "{:.5f} s"), "times": ("times", "{:.1f}"),
}  # fmt: skip


def loop_shares(stopwatch: Stopwatch, skip: int, checkpoint_every: int) -> dict[str, dict[str, float]]:
    """Seconds, share and count of each part, from the end of step ``skip`` to the end of the loop.

    A short run writes its last checkpoint after few steps; here checkpoints count as often as a long run
    writes them, once in ``checkpoint_every`` steps.

    Raises:
        RunFailed: no steps after the skipped ones.
    """
    steps = stopwatch.of(STEP)
    if len(steps) <= skip:
        raise RunFailed(f"{len(steps)} steps were done, of which {skip} are skipped: give more --steps")
    start, end = steps[skip - 1].end, stopwatch.of(LOOP)[-1].end
    inside = {label: stopwatch.of(label, start, end) for label in (STEP, DATA, LOGGING, CHECKPOINT)}
    seconds = {label: sum(event.seconds for event in events) for label, events in inside.items()}
    times = {label: float(len(events)) for label, events in inside.items()}
    seconds[OTHER], times[OTHER] = end - start - sum(seconds.values()), times[STEP]
    if times[CHECKPOINT]:
        each = seconds[CHECKPOINT] / times[CHECKPOINT]
        times[CHECKPOINT] = times[STEP] / checkpoint_every
        seconds[CHECKPOINT] = each * times[CHECKPOINT]
    total = sum(seconds.values())
    return {
        label: {"seconds": seconds[label], "share": seconds[label] / total, "times": times[label]}
        for label in seconds
    }


def loop_table(shares: dict[str, dict[str, float]], title: str) -> Table:
    """The parts, and what is not the step."""
    rows = [
        {"what": label, **values, "each": values["seconds"] / values["times"] if values["times"] else None}
        for label, values in shares.items()
    ]
    outside = [values for label, values in shares.items() if label != STEP]
    rows.append({
        "what": "outside the step", "seconds": sum(v["seconds"] for v in outside),
        "share": sum(v["share"] for v in outside),
    })  # fmt: skip
    notes = ["checkpoints counted at the recipe's rate (loop.checkpoint_every), not at this short run's"]
    return Table(title, COLUMNS, rows, notes)
