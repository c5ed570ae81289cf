"""A run that waits at a step until it is let go, so that a test which kills or signals it comes in time on any machine.

Forty tiny steps are over in a second, and a busy machine keeps a test waiting for longer than that.

As a script: ``gate.py STEP FOLDER COMMAND ...`` is ``mcl COMMAND ...`` held after a step.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

LONGEST = 300  # seconds; a test that failed meanwhile lets nothing go


def hold(folder: Path, steps: Sequence[int]) -> None:
    """In this process: once the line of such a step is in metrics.jsonl, wait until ``let_go`` or a fatal signal."""
    from mcl.engine.logging import Metrics

    plain = Metrics.write

    def write(self, step, *rest):
        plain(self, step, *rest)
        end = time.monotonic() + LONGEST
        while step in steps and not (folder / f"go-{step}").exists() and time.monotonic() < end:
            time.sleep(0.005)

    Metrics.write = write


def let_go(folder: Path, step: int) -> None:
    (folder / f"go-{step}").touch()


if __name__ == "__main__":
    from mcl.cli import main

    hold(Path(sys.argv[2]), [int(sys.argv[1])])
    sys.exit(main(sys.argv[3:]))
