"""Nobody reads the output, the terminal goes, standard streams are closed: no step is lost."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading

import pytest
import torch
from children import TIMEOUT, Run, on_terminal, output_is_not_read, run, under_nohup

from tiny import TINY, assert_same_state

STEPS = 40  # of the fixture ``words``
GONE = "nobody reads the output any more; going on without it"


def saved_step(out) -> int:
    return torch.load(out / "checkpoints/last.pt", weights_only=True)["step"]


def logged(out) -> list[int]:
    return [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("streams", [(1,), pytest.param((1, 2), marks=pytest.mark.faults)])
def test_a_pipe_that_nobody_reads(words, whole, tmp_path, streams):
    """``mcl pretrain ... | tee log``, and ``2>&1 | tee log``: tee was killed."""
    out = tmp_path / "run"
    process = run(out, *words, fault=output_is_not_read(*streams))
    assert process.said.splitlines() == [f"mcl: {GONE}"] * (streams == (1,))
    assert logged(out) == list(range(1, STEPS + 1)) and (out / "trunk.safetensors").exists()
    assert_same_state(whole, out)


def test_a_hangup_stops_with_a_checkpoint(words, whole, tmp_path):
    """A shell that ends sends it to its jobs, and the kernel to all of the terminal's: it comes twice."""
    out = tmp_path / "run"
    process = Run(out, *words, "--loop.workers", "2", hold=[30]).until(5)
    process.signal(signal.SIGHUP, group=True).signal(signal.SIGHUP, group=True)
    assert process.go().ends() == 128 + signal.SIGHUP, process.said
    assert "stopped by SIGHUP at step" in process.error and "--resume" in process.error
    assert saved_step(out) == len(logged(out)) < STEPS
    run(out, *words, "--resume")
    assert_same_state(whole, out)


@pytest.mark.faults
def test_nohup_is_heard(words, tmp_path):
    out = tmp_path / "run"
    process = Run(out, *words, "--schedule.steps", "6", fault=under_nohup, hold=[3]).until(3)
    assert process.signal(signal.SIGHUP).go().ends() == 0, process.said
    assert saved_step(out) == 6


@pytest.mark.faults
def test_a_terminal_that_goes(words, whole, tmp_path):
    """As when a connection by ssh is lost: SIGHUP, and no write succeeds from then on."""
    out = tmp_path / "run"
    terminal, other_side = pty.openpty()
    shown, lost = [], threading.Event()

    def look() -> None:
        while not lost.is_set():
            if select.select([terminal], [], [], 0.05)[0]:
                shown.append(os.read(terminal, 4096))

    eyes = threading.Thread(target=look, daemon=True)
    eyes.start()
    process = Run(out, *words, fault=on_terminal(os.ttyname(other_side)), hold=[30]).until(5)
    lost.set()
    eyes.join()
    os.close(other_side)
    os.close(terminal)
    assert process.go().ends() == 128 + signal.SIGHUP
    assert b"\x1b[?25l" in b"".join(shown), "a progress bar was going"
    assert saved_step(out) == len(logged(out)) < STEPS
    run(out, *words, "--resume")
    assert_same_state(whole, out)


@pytest.mark.parametrize("closed", [">&-", pytest.param("<&- >&- 2>&-", marks=pytest.mark.faults)])
def test_streams_that_are_closed_from_the_start(words, whole, tmp_path, closed):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "mcl", "pretrain", *TINY, *words, "--out", str(out)]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *command], capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == 0 and done.stdout == done.stderr == ""
    assert_same_state(whole, out)
