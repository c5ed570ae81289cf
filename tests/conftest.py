"""Shared by all tests: two processes at once must not fight for cores; what ``mcl.cli`` sets before torch is imported;
the numbers that tests measure."""

from __future__ import annotations

import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
# What runs remember for the user is none of the tests' business, nor theirs the user's.
KEPT = tempfile.TemporaryDirectory(prefix="mcl-tests-")
os.environ["XDG_CACHE_HOME"] = KEPT.name
sys.path.insert(0, str(Path(__file__).parent))

from measured import record  # noqa: E402

STARTED = time.monotonic()


@pytest.fixture
def figure(request) -> Callable[..., None]:
    """``figure(group, name, value, unit, column)``: a number to be shown in the docs (tests/measured.py)."""
    return functools.partial(record, request.node.nodeid)


def pytest_terminal_summary(terminalreporter) -> None:
    """How many tests there were, in the one process that hears of all."""
    if hasattr(terminalreporter.config, "workerinput"):  # one of xdist's, which has run some of them
        return
    for outcome in ("passed", "failed", "error", "skipped"):
        name = "ended with an error" if outcome == "error" else outcome
        record("", "run", name, len(terminalreporter.stats.get(outcome, [])))
    record("", "run", "time of the whole", time.monotonic() - STARTED, "s")
