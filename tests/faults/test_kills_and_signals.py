"""Killed or asked to stop at any moment, resumed: the end is bit for bit that of a run never interrupted."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time

import pytest
import torch
from children import Run, die_in_checkpoint, run, storage_hangs_while

from tiny import assert_same_state

STEPS = 40  # of the fixture ``words``
pytestmark = pytest.mark.faults


def logged(out) -> list[int]:
    return [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def saved_step(out) -> int:
    return torch.load(out / "checkpoints/last.pt", weights_only=True)["step"]


def test_twenty_kills_at_random_steps(photos, words, tmp_path, figure):
    """kill -9 at 20 random steps of one run, each resumed; the first may come before there is a checkpoint."""
    steps, draw, out = 85, random.Random(4), tmp_path / "run"
    words = [*words, "--schedule.steps", str(steps)]
    kills, target = [], 0
    for _ in range(20):
        target += draw.randint(1, 4)
        how = "--resume" if (out / "checkpoints/last.pt").exists() else "--overwrite"
        process = Run(out, *words, "--loop.workers", str(draw.randint(0, 2)), how, hold=[target + 4])
        process.until(target)
        time.sleep(draw.random() * 0.05)
        assert process.signal(signal.SIGKILL).ends() == -signal.SIGKILL, process.said
        kills.append(len(logged_or_torn(out)))
    assert not (out / "trunk.safetensors").exists() and kills[-1] < steps
    run(out, *words, "--resume")
    run(tmp_path / "whole", *words)
    assert_same_state(tmp_path / "whole", out)
    assert logged(out) == list(range(1, steps + 1))
    figure("kills", "kill -9 at random steps of one run, survived", len(kills))


def logged_or_torn(out) -> list[bytes]:
    return (out / "metrics.jsonl").read_bytes().splitlines()


@pytest.mark.parametrize("moment, kept", [("written", 3), ("synced", 3), ("renamed", 6)])
def test_killed_in_the_middle_of_writing_a_checkpoint(words, whole, tmp_path, figure, moment, kept):
    out = tmp_path / "run"
    process = Run(out, *words, fault=die_in_checkpoint(moment, checkpoint=2))
    assert process.ends() == -signal.SIGKILL, process.said
    assert saved_step(out) == kept
    assert (out / "checkpoints/last.partial").exists() == (moment != "renamed")
    run(out, *words, "--resume")
    assert_same_state(whole, out)
    assert not (out / "checkpoints/last.partial").exists()
    figure("kills", f"kill -9 while a checkpoint is {moment}, survived", 1)


@pytest.mark.parametrize(
    "number, group",
    [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGUSR1, False), (signal.SIGUSR1, True), (signal.SIGINT, True)],
)  # fmt: skip
def test_asked_to_stop(words, whole, tmp_path, figure, number, group):
    """``group``: a terminal and SLURM signal the loader processes, too."""
    out = tmp_path / "run"
    process = Run(out, *words, "--loop.workers", "2", hold=[30]).until(5)
    asked = time.monotonic()
    code = process.signal(number, group).go().ends()
    seconds = time.monotonic() - asked
    whom = "all processes of the job" if group else "the process"
    figure("stop", f"{signal.Signals(number).name} to {whom}", seconds, "s", "until exit")
    assert code == 128 + number and seconds < 10
    assert signal.Signals(number).name in process.error and "--resume" in process.error
    assert saved_step(out) == len(logged(out)) < STEPS
    run(out, *words, "--resume")
    assert_same_state(whole, out)


def test_asked_to_stop_while_storage_hangs(words, whole, tmp_path, figure):
    out, away = tmp_path / "run", tmp_path / "away"
    words = [*words, "--views.cache_gb", "0"]  # read in every pass; such small pictures are the same from memory
    process = Run(out, *words, fault=storage_hangs_while(away), hold=[8]).until(3)
    away.touch()
    process.go().until_asleep()  # the batches that were ready are used up
    now = len(logged_or_torn(out))
    assert now < STEPS
    asked = time.time()
    assert process.signal(signal.SIGTERM).ends() == 143, process.said
    ended, written = time.time(), (out / "checkpoints/last.pt").stat().st_mtime - asked
    name = "SIGTERM while storage hangs, one loader process"
    figure("stop", name, ended - asked, "s", "until exit")
    figure("stop", name, written, "s", "until the checkpoint is there")
    assert written < 10 and saved_step(out) == len(logged(out)) == now
    run(out, *words, "--resume")
    assert_same_state(whole, out)


def test_a_second_signal_kills(words, tmp_path):
    process = Run(tmp_path / "run", *words, "--schedule.steps", "4000").until(3)
    os.kill(process.pid, signal.SIGSTOP)  # so that both are there before it acts on the first
    process.signal(signal.SIGTERM).signal(signal.SIGCONT)
    with contextlib.suppress(ProcessLookupError):  # gone between the question and the signal
        while process.process.exitcode is None:
            process.signal(signal.SIGTERM)
            time.sleep(0.001)
    assert process.ends() in (-signal.SIGTERM, 143)
