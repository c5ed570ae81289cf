"""``mcl doctor``: tables that fit 80 columns, honest estimates, verdicts that say what to do."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

import mcl
from images import picture_folder
from mcl.bench.tables import Table
from mcl.checkup import devices, environment, memory, speed
from mcl.checkup.finding import Finding
from mcl.cli import main
from mcl.config.base import from_values
from mcl.config.doctor import DoctorSettings
from mcl.engine.machine.precision import Format, Trial, Tried
from mcl.engine.machine.remembered import Memory
from mcl.errors import RunFailed, UserError
from mcl.methods.step import TrainingStep, what_takes_time

TINY = {
    "batch": 4, "image_size": 32, "model.backbone": "test_resnet", "model.pyramid_channels": 16, "model.hidden": 32,
    "model.embedding": 16, "model.head_convs": 1, "method.scales": [1, 2], "loop.threads": 1, "images": 12,
}  # fmt: skip
CPU = torch.device("cpu")
MB = 2**20


def settings(**more) -> DoctorSettings:
    return from_values(DoctorSettings, {**TINY, **more})


def test_the_whole_examination_fits_80_columns_and_a_json(tmp_path, capsys):
    photos = picture_folder(tmp_path / "photos", 12)
    mcl.doctor(**{**TINY, "data": photos, "json": tmp_path / "d.json", "schedule.steps": 7})
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert said.count("ok: ") + said.count("warning: ") >= 5 and "7 steps of 4 images would take" in said
    content = json.loads((tmp_path / "d.json").read_text())
    parts = {part["name"]: part for part in content["doctor"]}
    assert list(parts) == ["environment", "devices", "memory", "precision", "loader"]
    assert parts["environment"]["versions"]["torch"] == metadata.version("torch")
    measured, estimated = parts["memory"]["measured_mb"], parts["memory"]["estimated"]
    assert measured["process"] > 50 and measured["step"] > 0 and estimated["activations"] > 0
    assert parts["precision"]["images_per_second"] > 0 and parts["loader"]["rates"]["1"] > 0
    assert content["settings"]["batch"] == 4 and content["machine"]["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.backbone", "resnet5"], "did you mean"),
        (["--data", "nowhere"], "no such file or folder"),
        (["--batch", "1"], "--batch: must be"),
        (["--loop.device", "cuda"], "torch sees no CUDA device"),
    ],
)
def test_bad_settings_end_with_2(words, message, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["doctor", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_package_too_old_or_missing_is_a_warning_with_a_command(monkeypatch):
    monkeypatch.setattr(environment, "version_of", lambda name: {"torch": "2.0.1+cpu", "rich": None}.get(name, "999"))
    part = environment.check_environment()
    assert len(part.warnings) == 2
    assert any("torch is 2.0.1+cpu, mcl needs >=2" in warning for warning in part.warnings)
    assert any("rich is missing" in warning and "pip install 'rich>=" in warning for warning in part.warnings)


def test_extras_tell_what_is_missing(monkeypatch):
    monkeypatch.setattr(environment, "version_of", lambda name: None if name == "onnxruntime" else "999")
    rows = {row["what"]: row for row in environment.check_environment().table.rows}
    assert rows["extra onnx"] == {
        "what": "extra onnx", "found": "missing: onnxruntime", "needs": "pip install 'mcl[onnx]'",
    }  # fmt: skip
    assert rows["extra methods"]["found"] == "present"
    assert environment.satisfies(Requirement("torch>=2.6"), "2.13.0+cpu")


def test_threads_and_shared_memory_are_compared_with_what_there_is(monkeypatch):
    assert devices.shared_bytes(settings(**{"loop.workers": 3})) == 3 * 4 * 4 * 2 * 3 * (32**2 + 16**2)
    monkeypatch.setattr(devices, "usable_cores", lambda: 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(devices, "shared_bytes", lambda _: 10**15)
    if not Path("/dev/shm").is_dir():
        pytest.skip("no /dev/shm here")
    part = devices.check_devices(settings(), CPU)
    assert ["--loop.threads 1" in part.warnings[0], "--shm-size" in part.warnings[1]] == [True, True]


def test_activations_without_data_are_those_of_a_real_step():
    tiny = settings()
    step = TrainingStep(tiny, CPU)
    kept = memory._Kept(step.method)
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
        loss, _ = next(step.method.losses(step.batch, 0))
    estimated = memory.estimate(tiny)
    assert estimated["activations"] == pytest.approx(kept.bytes, rel=0.02)
    weights = sum(p.nbytes for p in step.method.trained.parameters())
    assert estimated["gradients"] == weights and estimated["optimizer"] == 2 * weights
    assert memory.estimate(settings(**{"loop.precision": "bf16"}))["activations"] == estimated["activations"] // 2


def test_estimates_grow_with_the_batch():
    small, large = (memory.estimate(settings(batch=batch)) for batch in (8, 32))
    assert large["activations"] == pytest.approx(4 * small["activations"], rel=0.1)
    assert large["gradients"] == small["gradients"]


def test_a_recipe_that_does_not_fit_is_measured_small_and_gets_a_batch_that_fits(monkeypatch):
    asked = []

    def measure(at_batch, device):
        asked.append(at_batch.batch)
        return {"process": 100.0, "model": 1.0, "step": 10.0}

    big = settings(batch=4096)
    estimated, process = memory.estimate(big), 100 * MB
    room = process + memory.total(estimated) // 4
    monkeypatch.setattr(memory, "measure", measure)
    monkeypatch.setattr(memory, "free_bytes", lambda device: room)
    monkeypatch.setattr(memory, "used_bytes", lambda: process)
    part = memory.check_memory(big, CPU)
    assert asked == [memory.SMALL_BATCH] and part.numbers["batch"] == memory.SMALL_BATCH
    (warning,) = part.warnings
    batch = int(warning.partition("--batch ")[2].split()[0])
    assert 512 <= batch < 1024 and batch % 32 == 0
    fitting = memory.total(memory.estimate(settings(batch=batch))) + process
    assert fitting <= room


def test_memory_that_cannot_be_measured_is_a_warning(monkeypatch):
    def fails(*_):
        raise RunFailed("memory of matched/all could not be measured (out of memory?)")

    monkeypatch.setattr(memory, "measure", fails)
    part = memory.check_memory(settings(), CPU)
    assert "could not be measured" in part.warnings[0] and part.table.rows[-1]["measured"] is None


def trial_of(**seconds: float | None) -> Trial:
    formats = {"fp32": Format("fp32", True), "bf16": Format("bf16", True), "other": Format("fp32", False)}
    return Trial(tuple(Tried(formats[k], s, "" if s else "given up") for k, s in seconds.items()), 5.0)


def test_a_quicker_format_than_the_one_set_is_advised(monkeypatch):
    monkeypatch.setattr(speed, "try_recipe", lambda *_: trial_of(fp32=1.0, bf16=0.5))
    (warning,) = speed.check_precision(settings(**{"loop.precision": "fp32"}), CPU, 4).warnings
    assert "fp32, channels_last or fp32, contiguous is set, auto would take bf16" in warning
    assert "2.00 times as fast; --loop.precision bf16 --loop.channels_last true" in warning
    assert speed.check_precision(settings(), CPU, 4).warnings == []
    assert speed.check_precision(settings(**{"loop.precision": "bf16"}), CPU, 4).warnings == []


def test_runs_take_what_the_doctor_has_found(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(speed, "try_recipe", lambda *_: trial_of(fp32=1.0, bf16=None, other=0.5))
    speed.check_precision(settings(**{"loop.precision": "fp32"}), CPU, 4)
    recipe = {**what_takes_time(settings()), "batch": 4}
    assert Memory(recipe, settings().loop, CPU).find() is None, "only where nothing is set"
    speed.check_precision(settings(), CPU, 4)
    assert Memory(recipe, settings().loop, CPU).find().format == Format("fp32", False)


def test_a_format_set_that_is_hopeless_here_is_a_warning(monkeypatch):
    monkeypatch.setattr(speed, "try_recipe", lambda *_: trial_of(fp32=1.0, bf16=None))
    (warning,) = speed.check_precision(settings(**{"loop.precision": "bf16"}), CPU, 4).warnings
    assert "--loop.precision fp32" in warning


@pytest.mark.parametrize(
    ("workers", "rates", "needed", "words"),
    [
        (1, {1: 100.0}, 50.0, None),
        (1, {1: 100.0}, 150.0, "bottleneck: --loop.workers 2"),
        (2, {1: 100.0, 2: 105.0}, 150.0, "store the images smaller"),
        (1, {1: 100.0}, 950.0, "8 cores are too few"),
        (0, {1: 100.0}, 20.0, "--loop.workers 1"),
    ],
)
def test_is_the_loader_the_bottleneck(workers, rates, needed, words, monkeypatch, tmp_path):
    monkeypatch.setattr(speed, "loader_rate", lambda dataset, count: rates[count])
    monkeypatch.setattr(speed, "usable_cores", lambda: 8)
    part = speed.check_loader(settings(**{"loop.workers": workers}), [tmp_path / "a.jpg"], needed, "photos")
    assert (part.warnings == []) if words is None else words in part.warnings[0]


def test_a_verdict_is_ok_or_warnings(capsys):
    table = Table("T", {"what": ("what", "{}")}, [{"what": "x"}], ["a note"])
    Finding("a", table, "all well").show()
    Finding("b", table, "all well", ["mend it"]).show()
    said = capsys.readouterr().out
    assert "ok: all well" in said and "warning: mend it" in said and said.count("all well") == 1


def test_an_unwritable_json_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--json"):
        from mcl.bench.tables import write_json

        write_json(tmp_path / "file/x.json", {})
