"""A million files: listed once, found again, shared by all processes, each in bounds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

MILLION = 1_000_000
MEASURE = """
import json, os, sys, time
from pathlib import Path
from mcl.data.sources.find import find_images, fingerprint

def memory(kind, pid="self"):
    return next(int(l.split()[1]) for l in open(f"/proc/{pid}/status") if l.startswith(kind)) / 1024

started = time.perf_counter()
before = memory("VmRSS")
paths = find_images(Path(sys.argv[1]), cache=Path(sys.argv[2]))
out = {"images": len(paths), "seconds": time.perf_counter() - started, "rss_mb": memory("VmRSS"), "rss_before_mb": before}
out["peak_mb"] = memory("VmHWM")
if sys.argv[3] == "use":
    started = time.perf_counter()
    out["fingerprint"] = fingerprint(paths)
    out["fingerprint_seconds"] = time.perf_counter() - started
    read, write = os.pipe()
    if not os.fork():
        start = memory("RssAnon")
        total = sum(len(str(path)) for path in paths)  # an epoch of look-ups
        os.write(write, json.dumps({"rss_mb": memory("VmRSS"), "own_grown_mb": memory("RssAnon") - start}).encode())
        os._exit(0)
    os.wait()
    out["worker"] = json.loads(os.read(read, 9999))
    out["fingerprint_peak_mb"] = memory("VmHWM")
print(json.dumps(out))
"""


def measured(mode: str, million: Path, cache: Path) -> dict:
    """What a process of its own says that listed the folder (``list``) or also used it (``use``)."""
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, str(million), str(cache), mode],
        check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    return json.loads(ran.stdout)


@pytest.mark.faults
@pytest.mark.parametrize("each", [MILLION, 1_000], ids=["one folder", "1,000 folders"])
def test_a_million_files(tmp_path, each, figure, request):
    """Listed in under 30 s, under 300 MB, looked up again in a moment, and not copied by a worker."""
    million, cache = tmp_path / "million", tmp_path / "cache"
    for folder in range(MILLION // each):
        (million / f"{folder:04d}").mkdir(parents=True)
        inside = os.open(million / f"{folder:04d}", os.O_RDONLY)
        for i in range(each):
            os.close(os.open(f"image_{i:07d}.jpg", os.O_CREAT | os.O_WRONLY, dir_fd=inside))
        os.close(inside)
    time.sleep(2.5)  # folders that changed within 2 s are listed again
    try:
        first, again = (measured(mode, million, cache) for mode in ("list", "use"))
    finally:
        shutil.rmtree(million)
    worker, index_bytes = again["worker"], sum(f.stat().st_size for f in cache.rglob("*") if f.is_file())
    layout = request.node.callspec.id
    for name, value, unit in (
        ("first start: list the files, write the index", first["seconds"], "s"),
        ("files a second", first["images"] / first["seconds"], ""),
        ("memory before (Python and imports)", first["rss_before_mb"], "MB"),
        ("memory at most", first["peak_mb"], "MB"),
        ("memory after", first["rss_mb"], "MB"),
        ("index on disk", index_bytes / 2**20, "MB"),
        ("next starts: see whether a folder changed, map the index", again["seconds"], "s"),
        ("memory at most then", again["peak_mb"], "MB"),
        ("data fingerprint at the end of a run (asks every file's size)", again["fingerprint_seconds"], "s"),
        ("memory at most then, with the fingerprint", again["fingerprint_peak_mb"], "MB"),
        ("memory of a loader process that has looked up every name", worker["rss_mb"], "MB"),
        ("its growth, of what no other process shares", worker["own_grown_mb"], "MB"),
    ):
        figure("index", name, value, unit, layout)
    assert first["images"] == again["images"] == MILLION
    assert first["seconds"] < 30 and again["seconds"] < 3
    assert max(first["peak_mb"], again["peak_mb"], again["fingerprint_peak_mb"]) < 300
    assert worker["rss_mb"] < 300 and worker["own_grown_mb"] < 10
