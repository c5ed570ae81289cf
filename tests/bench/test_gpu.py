"""``make gpu``: every part runs (in small, on the CPU) and leaves its JSON; none keeps the others from running."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(ROOT))

import gpu  # noqa: E402
from mcl.cli import main  # noqa: E402
from mcl.config.base import from_arguments  # noqa: E402
from mcl.config.bench import BenchDataSettings, BenchStepSettings  # noqa: E402
from mcl.config.data import DataDemoSettings  # noqa: E402
from mcl.config.doctor import DoctorSettings  # noqa: E402
from mcl.config.finetune import FinetuneSettings  # noqa: E402
from mcl.config.pretrain import PretrainSettings  # noqa: E402

COMMANDS = {
    "bench step": BenchStepSettings, "bench data": BenchDataSettings, "data demo": DataDemoSettings,
    "doctor": DoctorSettings, "finetune": FinetuneSettings, "pretrain": PretrainSettings,
}  # fmt: skip
ALIKE = ("tests", "step-128", "step-256", "compiled")
OK = [sys.executable, "-c", "print('done')"]


def of_mcl(part: gpu.Part) -> list[list[str]]:
    return [list(command[3:]) for command in part.commands if tuple(command[:3]) == gpu.MCL]


@pytest.mark.parametrize("dry", [False, True])
def test_commands_know_their_settings(tmp_path, dry):
    """Read as the command line is; and all parts together fit the time."""
    found = gpu.parts(tmp_path, dry)
    for command in (command for part in found for command in of_mcl(part)):
        name = next(name for name in COMMANDS if " ".join(command).startswith(name))
        settings = from_arguments(COMMANDS[name], command[len(name.split()) :], f"mcl {name}")
        if hasattr(settings, "loop"):
            assert settings.loop.device == ("cpu" if dry else "cuda")
    assert sum(part.seconds for part in found) <= 540 and gpu.TOTAL < 540
    assert {"tests", "doctor", "step-64", "step-128", "step-256", "loader", "pretrain", "finetune"} <= {p.name for p in found}
    assert list((gpu.TESTS / "gpu").glob("test_*.py")), "what the part tests runs"


def test_every_part_completes_in_small_and_leaves_its_json(tmp_path, monkeypatch):
    """But what differs from another part in one setting: larger batches, and the training that is compiled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in [part.name for part in gpu.parts(tmp_path, dry=True) if part.name not in ALIKE]:
        part = the(tmp_path, name)
        for command in of_mcl(part):
            assert main(command) in (0, None), (name, command)
        assert part.files
        for file in part.files:
            text = (tmp_path / file).read_text()
            assert json.loads(text.splitlines()[-1] if file.endswith(".jsonl") else text), file
    assert gpu._last_numbers(part, tmp_path)["step"] == 2
    assert str(tmp_path / "pretrain/trunk.safetensors") in the(tmp_path, "finetune").commands[-1]
    plain, compiled = (the(tmp_path, name).commands[-1] for name in ("pretrain", "compiled"))
    assert set(compiled) - set(plain) == {str(tmp_path / "compiled"), "--loop.compile=true"}


def the(folder: Path, name: str) -> gpu.Part:
    """The part of that name, as it is once others have left what they leave."""
    return next(part for part in gpu.parts(folder, dry=True) if part.name == name)


def test_what_fails_or_hangs_does_not_keep_the_others_from_running(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "GRACE", 1.0)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('hears nothing', flush=True); time.sleep(600)"
    broken = [sys.executable, "-c", "print('out of GPU memory'); raise SystemExit(3)"]
    parts = [
        gpu.Part("broken", 30, [broken, OK]),
        gpu.Part("hangs", 2.5, [[sys.executable, "-c", "import time; time.sleep(600)"]]),
        gpu.Part("deaf", 4, [[sys.executable, "-c", deaf]]),
        gpu.Part("fine", 30, [OK, OK], ["fine.json"]),
    ]
    (tmp_path / "fine.json").write_text("{}")
    began = time.monotonic()
    content = gpu.run_all(lambda: parts, tmp_path, 60)
    assert time.monotonic() - began < 45
    assert {name: row["ended"] for name, row in content["parts"].items()} == {
        "broken": "failed", "hangs": "out of time", "deaf": "out of time", "fine": "ok",
    }  # fmt: skip
    assert content["parts"]["broken"]["exit_code"] == 3 and content["parts"]["broken"]["said"] == "out of GPU memory"
    assert content["parts"]["fine"]["files"] == ["fine.json"] and content == json.loads((tmp_path / "gpu.json").read_text())


def test_when_the_time_is_over_what_is_left_is_said_to_be(tmp_path):
    content = gpu.run_all(lambda: [gpu.Part("late", 30, [OK])], tmp_path, 2)
    assert content["parts"]["late"]["ended"] == "out of time" and content["seconds"] < 2
