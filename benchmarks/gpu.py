"""What there is to measure on a GPU, in nine minutes: ``make gpu``. See docs/gpu.md.

Every part runs in a process of its own and has its own time; what fails, runs out of memory or takes too long does not
keep the others from running. Data is generated. Each part leaves a log and JSON in the folder, and ``gpu.json`` tells
how each has ended; it is written anew after every part.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TOTAL = 530.0  # seconds for all parts
GRACE = 8.0  # of them each part keeps for ending well after SIGTERM
DRY_TIME = 20.0  # times the seconds, on whatever CPU there is
MCL = (sys.executable, "-m", "mcl")
TESTS = Path(__file__).parents[1] / "tests"
#: a network and pictures that take no time, on the CPU
DRY_MODEL = (
    "--model.backbone=test_resnet", "--model.pyramid_channels=16", "--model.hidden=32", "--model.embedding=16",
    "--model.head_convs=1",
)  # fmt: skip
BATCHES = {64: 55, 128: 55, 256: 75}


@dataclass(frozen=True)
class Part:
    """One thing to measure.

    Attributes:
        seconds: that it may take.
        commands: run one after the other until one fails.
        files: JSON (of ``metrics.jsonl`` the last line) that it leaves, in the folder.
    """

    name: str
    seconds: float
    commands: Sequence[Sequence[str]]
    files: Sequence[str] = field(default_factory=list)


def parts(out: Path, dry: bool = False, workers: int = 8) -> list[Part]:
    """All parts, the shortest news first.

    Args:
        out: folder for their JSON.
        dry: on the CPU, in small: shows that each part runs, measures nothing.
        workers: loader processes.
    """
    loop = ["--loop.device=cpu", "--loop.threads=1"] if dry else ["--loop.device=cuda"]
    loading = ["--loop.workers=0" if dry else f"--loop.workers={workers}"]
    recipe = ["--recipe=mcl-r50-imagenet", *loop, *(("--image_size=32", *DRY_MODEL) if dry else ("--image_size=224",))]
    batch = ["--batch=4" if dry else "--batch=64"]
    return [
        Part("tests", 80, [[sys.executable, "-m", "pytest", str(TESTS / "gpu"), "-q", "-p", "no:cacheprovider", f"--junit-xml={out / 'tests.xml'}"]]),
        Part("doctor", 40, [[*MCL, "doctor", *recipe, *batch, *loading, "--images=16", f"--json={out / 'doctor.json'}"]], ["doctor.json"]),
        *(_step(number, 4 if dry else number, seconds, recipe, out, dry) for number, seconds in BATCHES.items()),
        Part("loader", 55, [[*MCL, "bench", "data", *recipe, *batch, "--sizes=500x375", f"--json={out / 'loader.json'}", *_few(dry, workers)]], ["loader.json"]),
        _pretrain("pretrain", 60, 150, [*recipe, *batch, *loading], out, dry),
        _pretrain("compiled", 50, 80, [*recipe, *batch, *loading, "--loop.compile=true"], out, dry),
        _finetune(loop + loading, out, dry),
    ]  # fmt: skip


def _step(name: int, batch: int, seconds: float, recipe: list[str], out: Path, dry: bool) -> Part:
    """All ways to compute a step in bf16; dry in fp32, which every CPU has."""
    rounds = ["--rounds=1", "--warmup=0", "--memory=false"] if dry else ["--rounds=5", "--loop.precision=bf16"]
    file = f"step-{name}.json"
    given = [*MCL, "bench", "step", *recipe, f"--batch={batch}", *rounds, "--parts=false", f"--json={out / file}"]
    return Part(f"step-{name}", seconds, [given], [file])


def _few(dry: bool, workers: int) -> list[str]:
    if dry:
        return ["--workers=[]", "--images=4", "--rounds=1", "--step=false"]
    return [f"--workers=[1,{workers}]", "--images=192"]


def _data(out: Path, dry: bool) -> list[str]:
    """Generated scenes, once: a part that finds them uses them."""
    counts = (8, 4, 2) if dry else (600, 160, 40)
    names = ("--unlabeled_scenes", "--train_scenes", "--test_scenes")
    sizes = ["--image_size=64", "--cutouts_per_class=4"] if dry else ["--image_size=224", "--workers=4"]
    made = [f"{name}={count}" for name, count in zip(names, counts, strict=True)]
    return [*MCL, "data", "demo", f"--out={out / 'data'}", "--unlabeled_objects=0", *made, *sizes]


def _with_data(out: Path, dry: bool, command: list[str]) -> list[list[str]]:
    return [command] if (out / "data/test.json").exists() else [_data(out, dry), command]


def _pretrain(name: str, seconds: float, steps: int, recipe: list[str], out: Path, dry: bool) -> Part:
    given = ["--data", str(out / "data/unlabeled"), "--out", str(out / name), "--overwrite=true", *recipe]
    length = [f"--schedule.steps={2 if dry else steps}", "--schedule.warmup_epochs=0", "--schedule.warmup_steps=20", "--loop.log_every=1"]
    return Part(name, seconds, _with_data(out, dry, [*MCL, "pretrain", *given, *length]), [f"{name}/summary.json", f"{name}/metrics.jsonl"])


def _finetune(loop: list[str], out: Path, dry: bool) -> Part:
    """From the trunk that ``pretrain`` has left; without one, from scratch."""
    trunk = out / "pretrain/trunk.safetensors"
    given = ["--trunk", str(trunk) if trunk.exists() else "none", "--out", str(out / "finetune"), "--overwrite=true"]
    data = out / "data"
    given += ["--train", str(data / "train.json"), "--val", str(data / "test.json"), "--images", str(data), *loop]
    if not trunk.exists():
        given += ["--model.backbone=test_resnet" if dry else "--model.backbone=resnet50"]
    size = ["--image_size=64", "--batch=2", "--schedule.steps=2"] if dry else ["--image_size=224", "--batch=16", "--schedule.steps=150"]
    command = [*MCL, "finetune", *given, *size, "--loop.log_every=1", "--schedule.warmup_steps=1"]
    return Part("finetune", 65, _with_data(out, dry, command), ["finetune/summary.json", "finetune/metrics.jsonl"])


def run_part(part: Part, out: Path, seconds: float) -> dict[str, Any]:
    """Run a part and tell how it ended: ``ok``, ``failed`` or ``out of time``; never raises for what the part does."""
    began, ended, code = time.monotonic(), "ok", 0
    with open(out / f"{part.name}.log", "w", encoding="utf-8") as log:
        for command in part.commands:
            code = _run(command, log, seconds - (time.monotonic() - began))
            if code:
                ended = "out of time" if time.monotonic() - began >= seconds - GRACE else "failed"
                break
    lines = [line for line in (out / f"{part.name}.log").read_text("utf-8", errors="replace").splitlines() if line.strip()]
    return {
        "ended": ended, "exit_code": code, "seconds": round(time.monotonic() - began, 1), "allowed": round(seconds, 1),
        "said": lines[-1][:300] if lines else "", "files": [name for name in part.files if (out / name).exists()],
        "last": _last_numbers(part, out),
    }  # fmt: skip


def _run(command: Sequence[str], log, seconds: float) -> int:
    """Exit code of a command that is asked to end (SIGTERM) shortly before its time is over, and killed when it is."""
    if seconds <= GRACE:
        return 124
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    for waits, number in ((seconds - GRACE, signal.SIGTERM), (GRACE, signal.SIGKILL)):
        try:
            return process.wait(waits)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
    return process.wait()


def _last_numbers(part: Part, out: Path) -> dict[str, Any] | None:
    """The last line of a run's metrics, also of one that was broken off."""
    for name in part.files:
        if name.endswith(".jsonl") and (out / name).exists():
            lines = (out / name).read_text("utf-8").splitlines()
            with contextlib.suppress(ValueError, IndexError):
                return json.loads(lines[-1])
    return None


def run_all(make_parts, out: Path, total: float, times: float = 1.0) -> dict[str, Any]:
    """Run part after part within ``total`` seconds; returns what ``gpu.json`` holds.

    Args:
        make_parts: called before each part, for what a part does may depend on what others have left.
        times: factor on the seconds of every part.
    """
    out.mkdir(parents=True, exist_ok=True)
    began, content = time.monotonic(), {"total": total, "parts": {}}
    for name in [part.name for part in make_parts()]:
        part = next(part for part in make_parts() if part.name == name)
        left = total - (time.monotonic() - began)
        content["parts"][name] = row = run_part(part, out, min(times * part.seconds, left))
        content["seconds"] = round(time.monotonic() - began, 1)
        (out / "gpu.json").write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        print(f"{name}: {row['ended']} after {row['seconds']:.0f} s ({row['said'][:100]})", flush=True)
    return content


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 if every part has ended well."""
    parser = argparse.ArgumentParser(description="Measure on a GPU what can be measured in nine minutes.")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder for JSON and logs")
    parser.add_argument("--dry", action="store_true", help="on the CPU, in small: shows that every part runs")
    parser.add_argument("--only", nargs="+", default=[], help="names of parts")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="loader processes")
    given = parser.parse_args(argv)

    def chosen() -> list[Part]:
        return [part for part in parts(given.out, given.dry, given.workers) if not given.only or part.name in given.only]

    times = DRY_TIME if given.dry else 1.0
    content = run_all(chosen, given.out, times * TOTAL, times)
    print(f"{given.out / 'gpu.json'}: {content.get('seconds', 0):.0f} s")
    return int(any(row["ended"] != "ok" for row in content["parts"].values()))


if __name__ == "__main__":
    raise SystemExit(main())
