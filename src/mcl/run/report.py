"""``mcl report``: runs and studies as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mcl.config.report import ReportSettings
from mcl.engine.run_folder import RunFolder
from mcl.errors import UserError
from mcl.report.page import page_of, render
from mcl.report.runs import read_runs

FILE_NAME = "report.html"


def report(settings: ReportSettings) -> dict[str, Any]:
    """Write the page; reads the folders and changes nothing in them but ``report.html``.

    Returns:
        ``report``: its path, ``runs``: what was read, ``kinds``: of which kind, and ``message``.

    Raises:
        UserError: a folder that no command of ours wrote, a damaged file in one, or ``out`` cannot be written.
    """
    runs = read_runs(settings.runs)
    out = settings.out or (runs[0].path / FILE_NAME if len(runs) == 1 else Path(FILE_NAME))
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder; give a file, for example {out / FILE_NAME}")
    html = render(page_of(runs, settings.title, settings.resamples))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        RunFolder(out.parent).write_text(out.name, html)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror or error}") from None
    return {
        "report": str(out), "runs": [str(run.path) for run in runs], "kinds": [run.kind for run in runs],
        "message": f"{out} ({len(html.encode()) / 1e6:.1f} MB)",
    }  # fmt: skip
