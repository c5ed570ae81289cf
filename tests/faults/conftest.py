"""Pictures, an uninterrupted run to compare with, and a small disk of our own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import children
import pytest

from images import picture_folder

STEPS = 40


@pytest.fixture(scope="session", autouse=True)
def logs(tmp_path_factory) -> None:
    children.LOGS = tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    return picture_folder(tmp_path_factory.mktemp("photos"), 20)


@pytest.fixture(scope="session")
def words(photos) -> list[str]:
    """Settings of the run that is broken in many ways."""
    return [
        "--data", str(photos), "--schedule.steps", str(STEPS), "--loop.checkpoint_every", "3",
        "--loop.workers", "1",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def whole(words, tmp_path_factory) -> Path:
    """The same run, never interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    children.run(out, *words)
    return out


@pytest.fixture
def mounted(tmp_path):
    """``mounted(options)``: a small file system in memory; needs root."""
    folders: list[Path] = []

    def mount(options: str) -> Path:
        folder = tmp_path / f"disk{len(folders)}"
        folder.mkdir()
        if os.geteuid() or not shutil.which("mount"):
            pytest.skip("mounting a tmpfs needs root")
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"mount refused: {done.stderr.strip()}")
        folders.append(folder)
        return folder

    yield mount
    for folder in folders:
        subprocess.run(["umount", "-l", str(folder)], check=True)
