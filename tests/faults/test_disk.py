"""A full disk, a folder that cannot be written."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import time
from pathlib import Path

import pytest
import torch
from children import TIMEOUT, Run, no_room_for_stdout, run

from mcl.cli import main
from tiny import TINY, assert_same_state


def saved_step(out) -> int:
    return torch.load(out / "checkpoints/last.pt", weights_only=True)["step"]


def fill(disk: Path) -> Path:
    """Take all the room that is left, to the last byte."""
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    assert os.statvfs(disk).f_bavail == 0
    return filler


def until_said(process: Run, words: str, seconds: float = TIMEOUT) -> None:
    deadline = time.monotonic() + seconds
    while words not in process.said:
        assert process.process.exitcode is None and time.monotonic() < deadline, process.said
        time.sleep(0.01)


def test_a_checkpoint_that_cannot_be_written_stops_the_run(words, tmp_path):
    """A limit on the size of files, which needs no root: like a full disk for all but the small files."""
    out = tmp_path / "run"
    process = Run(out, *words, hold=[4]).until(4)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (60_000, 60_000))
    assert process.go().ends() == 3, process.said
    error = process.error
    assert "could not be written: File too large" in error and "last.pt) is untouched" in error
    assert saved_step(out) == 3 and not (out / "checkpoints/last.partial").exists()


@pytest.mark.faults
def test_disk_full_and_stopped(words, whole, mounted, figure):
    disk = mounted("size=64m")
    out = disk / "run"
    process = Run(out, *words, "--loop.tensorboard", "true", hold=[4]).until(4)
    filler, full = fill(disk), time.monotonic()
    assert process.go().ends() == 3, process.said
    figure("stop", "disk full, `stop` (from the full disk on)", time.monotonic() - full, "s", "until exit")
    assert "No space left on device" in process.error and "is untouched" in process.error
    assert saved_step(out) >= 3 and not (out / "checkpoints/last.partial").exists()
    # Still full: nothing can be done, and it is said in one line.
    again = Run(out, *words, "--resume")
    assert again.ends() in (2, 3) and "No space left on device" in again.error
    filler.unlink()
    run(out, *words, "--resume")
    assert_same_state(whole, out)


@pytest.mark.faults
def test_disk_full_and_the_run_goes_on(words, whole, mounted):
    """The disk has room again before the end: no line of metrics is lost, and the end is as if nothing had been."""
    disk = mounted("size=64m")
    out = disk / "run"
    words = [*words, "--loop.on_checkpoint_error", "continue", "--loop.tensorboard", "true"]
    process = Run(out, *words, hold=[4, 12]).until(4)
    filler = fill(disk)
    process.go(4)
    until_said(process, "could not be written: No space left on device")
    kept = saved_step(out)
    filler.unlink()
    assert process.go(12).ends() == 0, process.said
    assert "Traceback" not in process.said and "the run goes on" in process.said and kept >= 3
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) == saved_step(out)
    assert_same_state(whole, out)


@pytest.mark.faults
def test_disk_full_to_the_end(words, mounted):
    """Going on has an end: without the last checkpoint the run has failed, and says so."""
    disk = mounted("size=64m")
    out = disk / "run"
    words = [*words, "--loop.on_checkpoint_error", "continue", "--loop.tensorboard", "true"]
    process = Run(out, *words, hold=[4]).until(4)
    fill(disk)
    assert process.go().ends() == 3, process.said
    assert "No space left on device" in process.error and saved_step(out) < 40
    assert "metrics.jsonl: No space left on device; the run goes on" in process.said
    assert process.said.count("metrics.jsonl: No space") == 1


@pytest.mark.faults
def test_the_log_is_on_a_full_disk(words, whole, tmp_path):
    """``mcl pretrain ... > log``: the run does not die for its lines."""
    process = run(tmp_path / "run", *words, fault=no_room_for_stdout)
    assert process.said == ""
    assert_same_state(whole, tmp_path / "run")


@pytest.mark.parametrize("kind", ["below a file", "in /proc", "a device", "a name too long"])
def test_unwritable_run_folders(photos, tmp_path, capsys, kind):
    (tmp_path / "file").write_text("x")
    out = {
        "below a file": tmp_path / "file/run", "in /proc": Path("/proc/run"), "a device": Path("/dev/full"),
        "a name too long": tmp_path / ("x" * 300),
    }[kind]  # fmt: skip
    refused(photos, out, capsys)


@pytest.mark.faults
def test_a_read_only_disk(photos, mounted, capsys):
    refused(photos, mounted("size=1m,ro") / "run", capsys)


@pytest.mark.faults
def test_an_immutable_folder(photos, tmp_path, capsys):
    folder = tmp_path / "frozen"
    folder.mkdir()
    if os.geteuid() or subprocess.run(["chattr", "+i", str(folder)], capture_output=True).returncode:
        pytest.skip("chattr +i needs root and a file system that knows it")
    try:
        refused(photos, folder, capsys)
        refused(photos, folder / "run", capsys)
    finally:
        subprocess.run(["chattr", "-i", str(folder)], check=True)


def refused(photos, out, capsys) -> None:
    assert main(["pretrain", *TINY, "--data", str(photos), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"mcl: error: --out {out}: ") and error.count("\n") == 1
