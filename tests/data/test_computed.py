"""What is computed of every picture once: in parallel, found again, whole after any kill."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from images import picture_folder
from mcl.data.computed import PART, Computed, Survey
from mcl.data.sources.find import find_images
from mcl.errors import RunFailed, UserError

TESTS = Path(__file__).parent.parent
PICTURES = 2 * PART + 9


@dataclass(frozen=True)
class Corner:
    """The first pixel, as many times as it is dark."""

    side: int = 32
    factor: int = 1
    wait: float = 0.0

    def __call__(self, image: Image.Image) -> bytes:
        time.sleep(self.wait)
        assert max(image.size) <= self.side
        return bytes(image.getpixel((0, 0))) * (1 + self.factor * image.getpixel((0, 0))[0] % 5)


@dataclass(frozen=True)
class Dies:
    side: int = 32

    def __call__(self, image: Image.Image) -> bytes:
        os.kill(os.getpid(), signal.SIGKILL)
        return b""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(PICTURES):
        Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).save(folder / f"{i:04d}.png")
    (folder / "0130.png").write_bytes(b"no picture")
    return find_images(folder)


def expected(picture, compute) -> bytes:
    try:
        return compute(Image.open(picture))
    except OSError:
        return b""


@pytest.mark.parametrize("workers", [1, 2])
def test_every_picture_has_its_result_and_the_next_run_finds_them(pictures, tmp_path, workers):
    said: list[str] = []
    kept = Survey(pictures, tmp_path, workers, say=said.append).of_each("corners", Corner())
    assert [kept[i] for i in range(PICTURES)] == [expected(p, Corner()) for p in pictures] and kept[130] == b""
    assert kept.lengths().tolist() == [len(row) for row in kept]
    assert said[0] == f"corners of {PICTURES} images are computed once, by {workers} processes, and kept"
    assert len(said) == 2 and said[1].startswith(f"corners of {PICTURES} images computed in")
    again = Survey(pictures, tmp_path, workers, say=said.append).of_each("corners", Corner())
    assert len(said) == 2 and list(again) == list(kept)
    sent = pickle.loads(pickle.dumps(kept))
    assert sent == kept and sent[PICTURES - 1] == kept[PICTURES - 1] and len(pickle.dumps(kept)) < 1000
    with pytest.raises(IndexError):
        kept[PICTURES]


def test_other_settings_or_data_are_computed_anew(pictures, tmp_path):
    folders = {
        Survey(some, tmp_path).of_each("corners", compute).folder
        for some, compute in ((pictures, Corner()), (pictures, Corner(factor=2)), (pictures[:-1], Corner()))
    }
    assert len(folders) == 3


def test_a_part_that_is_missing_is_computed_and_no_other(pictures, tmp_path):
    bar = Bar()
    survey = Survey(pictures, tmp_path, progress=bar)
    kept = survey.of_each("corners", Corner())
    assert bar.told == [("corners", PICTURES, 0), PART, 2 * PART, PICTURES]
    kept.path(1).unlink()
    left = kept.folder / ".part-000001.7.tmp"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    before, bar.told = kept.path(0).stat().st_mtime_ns, []
    again = survey.of_each("corners", Corner())
    assert bar.told == [("corners", PICTURES, PICTURES - PART), PICTURES] and not left.exists()
    assert list(again) == list(kept) and kept.path(0).stat().st_mtime_ns == before


class Bar:
    def __init__(self) -> None:
        self.told: list = []

    def __call__(self, *words):
        self.told.append(words)
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def advance(self, done: int) -> None:
        self.told.append(done)


def test_a_worker_that_dies_is_one_line(pictures, tmp_path):
    with pytest.raises(RunFailed, match="a process that computed corners died"):
        Survey(pictures, tmp_path, 2).of_each("corners", Dies())


def test_a_cache_that_cannot_be_written_is_one_line(pictures, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"corners cannot be kept in .*file/computed.*Not a directory"):
        Survey(pictures, tmp_path / "file").of_each("corners", Corner())


CHILD = """
import sys
sys.path[:0] = [{tests!r}, {here!r}]
from test_computed import Corner
from mcl.data.computed import Survey
from mcl.data.sources.find import find_images
from mcl.errors import UserError
if __name__ == "__main__":
    try:
        Survey(find_images({data!r}), __import__("pathlib").Path({cache!r}), 2).of_each("corners", Corner(wait=0.004))
    except UserError as error:
        print(error)
        raise SystemExit(error.exit_code)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_kill_loses_no_finished_part_and_leaves_nobody_behind(tmp_path, number):
    data, cache, script = picture_folder(tmp_path / "data", 1), tmp_path / "cache", tmp_path / "child.py"
    first = (data / "0000.jpg").read_bytes()
    for i in range(1, 4 * PART):
        (data / f"{i:04d}.jpg").write_bytes(first)
    script.write_text(CHILD.format(tests=str(TESTS), here=str(Path(__file__).parent), data=str(data), cache=str(cache)))
    child = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (done := list(cache.glob("computed/*/part-*.npy"))):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(number)
    said, _ = child.communicate(timeout=30)
    if number != signal.SIGKILL:
        assert child.returncode == 128 + number and "images are kept; start again to go on" in said
    while _alive(child.pid):
        assert time.monotonic() < deadline, "a process that computes outlived its parent"
        time.sleep(0.05)
    found = [np.load(part) for part in cache.glob("computed/*/part-*.npy")]
    assert done and len(found) < 3 and all(len(part) > 8 * (PART + 1) for part in found)
    kept = Survey(find_images(data), cache).of_each("corners", Corner(wait=0.004))
    assert isinstance(kept, Computed) and set(kept) == {kept[0]} and kept[0]


def _alive(group: int) -> bool:
    """Whether a process of a session is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
