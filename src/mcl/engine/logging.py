"""What a run tells: a progress bar or plain lines, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import IO, Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from mcl.engine.run_folder import RunFolder
from mcl.engine.trackers import Tracker
from mcl.errors import printable
from mcl.streams import Unbreakable


class _Console(Console):
    """A console whose full disk (``> log``) or broken pipe (``| tee``) does not end a run: the run folder has it all.

    What it shows, cells of tables too, is text and nothing else: names come from outside, and one like ``fish [adult]``,
    ``:fish:`` or one with escapes in it is no instruction to the terminal.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        """Text with all but line ends written as escapes."""
        return super().render_str("\n".join(map(printable, text.split("\n"))), **options)

    @property
    def file(self) -> IO[str]:
        """Where it writes to."""
        return Unbreakable(super().file)


console = _Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


class Metrics:
    """Appends to metrics.jsonl and TensorBoard; a resumed run first drops what it is going to log again.

    A full disk does not stop a run here: it is said once, and lines wait for room (the newest ``BACKLOG``).
    """

    BACKLOG = 10_000

    def __init__(
        self, folder: RunFolder, start_step: int, tensorboard: bool, trackers: Mapping[str, Tracker] | None = None
    ) -> None:
        _drop_lines_from(folder, start_step)
        self.path = folder.metrics
        self._file = open(folder.metrics, "ab", buffering=0)  # noqa: SIM115 (closed in close)
        self._waiting: deque[bytes] = deque(maxlen=self.BACKLOG)
        self._told = False
        self._board = None
        self._trackers = dict(trackers or {})
        self._thread_hook = threading.excepthook
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            threading.excepthook = self._quiet_thread
            self._board = SummaryWriter(folder.path / "tensorboard", purge_step=start_step or None)

    def write(self, step: int, values: Mapping[str, float], warnings: Mapping[str, str] | None = None) -> None:
        """Log numbers of one step (0-based count of steps done), and the warnings (kind -> text) that begin there."""
        said = {"warnings": dict(warnings)} if warnings else {}
        self._waiting.append(json.dumps({"step": step, **values, **said}).encode() + b"\n")
        self._append()
        try:
            for name, value in values.items() if self._board is not None else ():
                self._board.add_scalar(printable(name), value, step)
        except OSError as error:
            self._drop_board(error)
        self._tell_trackers(lambda tracker: tracker.write(step, values))

    def close(self) -> None:
        """Flush and close both."""
        self._append()
        self._file.close()
        try:
            if self._board is not None:
                self._board.close()
        except OSError as error:
            self._drop_board(error)
        threading.excepthook = self._thread_hook
        self._tell_trackers(lambda tracker: tracker.close())

    def _tell_trackers(self, tell: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                tell(tracker)
            except Exception as error:  # whatever a service raises
                del self._trackers[name]
                told = " ".join(str(error).split())[:200] or type(error).__name__
                _warn(f"{name}: {told}; the run goes on without, metrics.jsonl has the numbers")

    def _append(self) -> None:
        """Write the lines that wait, each complete or not at all."""
        end = self._file.seek(0, os.SEEK_END)
        try:
            while self._waiting:
                line = self._waiting[0]
                if self._file.write(line) < len(line):  # the last bytes that the disk had
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._waiting.popleft()
                end += len(line)
            self._told = False
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(end)
            if not self._told:
                _warn(f"{self.path}: {error.strerror}; the run goes on, and lines wait for room")
            self._told = True

    def _drop_board(self, error: OSError) -> None:
        self._board = None
        _warn(f"tensorboard: {error.strerror or error}; the run goes on without, metrics.jsonl has the numbers")

    def _quiet_thread(self, args: threading.ExceptHookArgs) -> None:
        """TensorBoard's writing thread raises what ``add_scalar`` and ``close`` raise again; no second traceback."""
        if not (isinstance(args.exc_value, OSError) and type(args.thread).__module__.startswith("tensorboard")):
            self._thread_hook(args)


def _warn(text: str) -> None:
    console.print(f"warning: {text}", style="yellow", markup=False)


class _TwoLines(Progress):
    """A bar, and the newest numbers below it (beside it they would push it off a narrow terminal)."""

    numbers = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        if self.numbers:
            yield Text(printable(self.numbers), style="dim", no_wrap=True, overflow="ellipsis")


class Display:
    """Progress on a terminal, plain lines elsewhere."""

    def __init__(self, title: str, total_steps: int, start_step: int) -> None:
        self._live = console.is_terminal
        self.total_steps = total_steps
        columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = _TwoLines(*columns, console=console, disable=not self._live)
        self._task = self._progress.add_task(title, total=total_steps, completed=start_step)
        self._title = title

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *_) -> None:
        self._progress.stop()

    def advance(self, step: int) -> None:
        """Move the bar to ``step`` steps done."""
        self._progress.update(self._task, completed=step)

    def log(self, step: int, line: str) -> None:
        """Show the newest numbers."""
        if self._live:
            self._progress.numbers = line
            self._progress.update(self._task, completed=step)
        else:
            console.print(f"{self._title} {step}/{self.total_steps}  {line}")

    def say(self, text: str, style: str = "") -> None:
        """Print a line above the bar."""
        (self._progress.console if self._live else console).print(text, style=style or None, markup=False)


def warnings_of(folder: RunFolder) -> list[dict[str, str | int]]:
    """All warnings of a run, over its resumptions, for summary.json: ``{"step", "kind", "text"}``."""
    lines = folder.metrics.read_text("utf-8").splitlines() if folder.metrics.exists() else []
    rows = [json.loads(line) for line in lines]
    return [
        {"step": row["step"], "kind": kind, "text": text}
        for row in rows
        for kind, text in row.get("warnings", {}).items()
    ]


def describe(values: Mapping[str, float], seconds_left: float) -> str:
    """One line of the numbers that a person follows."""
    levels = [f"{name[5:]} {values[name]:.3f}" for name in sorted(values) if name.startswith("loss/")]
    parts = [f"loss {values['loss']:.3f}", f"lr {values['lr']:.2g}"]
    parts.append(f"{values['images_per_second']:.1f} images/s")
    parts.append(f"data wait {values['data_wait']:.0%}")
    parts.append(f"{duration(seconds_left)} left")
    if levels:  # last: a terminal of 80 columns may cut them off
        parts.append(f"({', '.join(levels)})")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """``95 -> '1m35s'``; hours above an hour, days above two."""
    seconds = int(round(seconds))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    if seconds < 2 * 86400:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    return f"{seconds / 86400:.1f} days"


def end_time(seconds_left: float) -> str:
    """Local clock time at which ``seconds_left`` will have passed."""
    end = datetime.now() + timedelta(seconds=seconds_left)
    return end.strftime("%H:%M" if seconds_left < 12 * 3600 else "%a %d %b %H:%M")


def _drop_lines_from(folder: RunFolder, step: int) -> None:
    if not folder.metrics.exists():
        return
    lines, kept = folder.metrics.read_text("utf-8", errors="replace").splitlines(), []
    for line in lines:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue  # a line cut off by a crash
    if kept != lines:
        folder.write_text(folder.metrics.name, "".join(line + "\n" for line in kept))
