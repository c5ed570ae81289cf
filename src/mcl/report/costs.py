"""What runs cost and brought, in a row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mcl.config.base import Command
from mcl.config.help import shown_value
from mcl.engine.logging import duration
from mcl.report.differs import rebuilt
from mcl.report.runs import EVALUATE, FINETUNE, PRETRAIN, STUDY, Run
from mcl.report.tables import NONE, Cell, Table, share_cell
from mcl.studies.tables import flops

_COUNTED: dict[str, float | None] = {}  # settings -> FLOPs of a step: counting takes a second
Read = Callable[[Run], Cell | None]


def state_of(run: Run) -> str:
    """Finished, or how far it is."""
    if run.kind == STUDY:
        return f"{len(run.trainings)} trainings done"
    if run.finished:
        return "finished"
    if not run.steps_done:
        return "nothing logged yet"
    wanted = run.steps_wanted
    return f"not finished: step {run.steps_done:,}" + (f" of {wanted:,}" if wanted else "")


def counted_flops(run: Run) -> float | None:
    """Of all steps done, forward and backward, counted from the settings; none where they cannot be built any more."""
    if run.kind != PRETRAIN or not run.steps_done:
        return None
    settings = rebuilt(run)
    if settings is None:
        return None
    key = settings.model_dump_json(exclude={"out", "data", "seed", "schedule", "loop", "watch"})
    if key not in _COUNTED:
        _COUNTED[key] = _flops_of_step(settings)
    return None if _COUNTED[key] is None else _COUNTED[key] * run.steps_done


def _flops_of_step(settings: Command) -> float | None:
    from mcl.methods.flops import step_flops

    try:
        return float(sum(step_flops(settings).values()))
    except Exception:  # an older run, or a network that counts no FLOPs: the page stands without
        return None


def overview(runs: Sequence[Run], colours: Mapping[str, int], counted: Mapping[str, float | None]) -> Table:
    """A row for each run; columns that no run has anything for are left out.

    Args:
        colours: name of a run -> number of its colour.
        counted: name of a run -> its FLOPs.
    """
    columns: list[tuple[str, Read]] = [
        ("run", lambda run: Cell(run.name, anchor=anchor(run), colour=colours[run.name])),
        ("kind", lambda run: Cell(run.kind, note=state_of(run))),
        ("start", lambda run: _text(_start(run))),
        ("box AP", lambda run: _ap(run, "box_AP")),
        ("mask AP", lambda run: _ap(run, "mask_AP")),
        ("images", lambda run: _count(_images(run))),
        ("steps", lambda run: _count(run.steps_done)),
        ("images seen", lambda run: _count(_cost(run, "images"))),
        ("time", lambda run: _time(_cost(run, "seconds"))),
        ("memory", lambda run: _number(_cost(run, "peak_memory_mb"), "{:,.0f} MB")),
        ("compute", lambda run: Cell(flops(counted[run.name]), counted[run.name]) if counted.get(run.name) else None),
    ]  # fmt: skip
    cells = [[read(run) for _, read in columns] for run in runs]
    kept = [i for i in range(len(columns)) if any(row[i] for row in cells)]
    rows = [[row[i] or Cell(NONE) for i in kept] for row in cells]
    return Table([columns[i][0] for i in kept], rows, words=3 if any(row[2] for row in cells) else 2)


def tiles(run: Run, compute: float | None) -> list[tuple[str, str]]:
    """(what, figure) of the few numbers that one looks for first."""
    cost, summary = run.summary.get("cost") or {}, run.summary
    found = [
        ("box AP", share_cell(summary.get("box_AP")).text if "box_AP" in summary else ""),
        ("mask AP", share_cell(summary["mask_AP"]).text if summary.get("mask_AP") is not None else ""),
        ("time", duration(cost["seconds"]) if "seconds" in cost else ""),
        ("steps", f"{run.steps_done:,}" if run.steps_done else ""),
        ("images seen", f"{cost['images']:,}" if "images" in cost else ""),
        ("images a second", f"{cost['images_per_second']:,.1f}" if "images_per_second" in cost else ""),
        ("waiting for data", f"{cost['data_wait']:.0%}" if cost.get("data_wait") is not None else ""),
        ("peak memory", f"{cost['peak_memory_mb']:,.0f} MB" if "peak_memory_mb" in cost else ""),
        ("compute", flops(compute) if compute else ""),
        ("skipped images", f"{summary['skipped']:,}" if summary.get("skipped") else ""),
    ]  # fmt: skip
    return [(what, figure) for what, figure in found if figure]


def anchor(run: Run) -> str:
    """Name of a run's section in the page's address."""
    return "run-" + "".join(c if c.isalnum() and c.isascii() else f"_{ord(c):x}" for c in run.name)


def _start(run: Run) -> str | None:
    """What it trained from, in a word."""
    if run.kind == PRETRAIN:
        given = (run.settings.get("method") or {}).get("name")
        return f"{given} from {run.settings['init_from']}" if run.settings.get("init_from") else given
    if run.kind == FINETUNE:
        parts = run.summary.get("parts")
        trunk = run.settings.get("trunk")
        return "from scratch" if trunk == "none" else f"{trunk}" + (f" ({parts})" if parts else "")
    return shown_value(run.settings["detector"]) if run.kind == EVALUATE else None


def _images(run: Run) -> int | None:
    return next((run.summary[key] for key in ("images", "train_images", "test_images") if key in run.summary), None)


def _cost(run: Run, key: str) -> float | None:
    return (run.summary.get("cost") or {}).get(key)


def _text(value: str | None) -> Cell | None:
    return Cell(value) if value else None


def _ap(run: Run, key: str) -> Cell | None:
    return None if run.summary.get(key) is None else share_cell(run.summary[key])


def _count(value: float | None) -> Cell | None:
    return _number(value, "{:,}") if value else None


def _time(seconds: float | None) -> Cell | None:
    return None if seconds is None else Cell(duration(seconds), seconds)


def _number(value: Any, form: str) -> Cell | None:
    return None if value is None else Cell(form.format(value), float(value))
