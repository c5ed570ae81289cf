"""What trials have found is found again for the same machine and recipe, and never in the way."""

from __future__ import annotations

import json
import os

import pytest
import torch

from mcl.config.optim import LoopSettings
from mcl.engine.machine import remembered
from mcl.engine.machine.precision import Format, Trial, Tried
from mcl.engine.machine.processor import cpu_flags, cpu_model
from mcl.engine.machine.remembered import Memory, cache_file, machine

CPU, LOOP, RECIPE = torch.device("cpu"), LoopSettings(), {"batch": 8, "model": {"backbone": "resnet18"}}
FP32, BF16, OTHER = Format("fp32", True), Format("bf16", True), Format("fp32", False)
FOUND = Trial((Tried(FP32, 1.0), Tried(BF16, None, "given up"), Tried(OTHER, 0.8)), 2.0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/mcl/formats.json"


def test_what_was_chosen_is_found_again_and_told_with_its_ratio(cache):
    assert Memory(RECIPE, LOOP, CPU).find() is None
    Memory(RECIPE, LOOP, CPU).keep(FOUND, lambda: "2025-12-31")
    choice = Memory(dict(reversed(RECIPE.items())), LOOP, CPU).find()
    assert choice.format == OTHER and choice.gain == pytest.approx(1.25) and cache_file() == cache
    told = "takes fp32, contiguous, 1.25 times as fast as fp32, channels_last: remembered from a trial on 2025-12-31"
    assert str(choice).startswith(told) and str(cache) in str(choice)
    assert [path.name for path in cache.parent.iterdir()] == ["formats.json"], "nothing half-written beside it"


def test_another_machine_recipe_or_freedom_asks_anew(monkeypatch):
    Memory(RECIPE, LOOP, CPU).keep(FOUND)
    known = Memory(RECIPE, LOOP, CPU).key
    assert Memory(RECIPE, LOOP.model_copy(update={"workers": 7, "log_every": 3}), CPU).key == known
    others = [
        Memory({**RECIPE, "batch": 16}, LOOP, CPU), Memory(RECIPE, LoopSettings(precision="fp32"), CPU),
        Memory(RECIPE, LoopSettings(matrix_gradients=False), CPU), Memory(RECIPE, LOOP, CPU, processes=2),
    ]  # fmt: skip
    for name, value in (("cpu_model", "Other CPU"), ("cpu_flags", ["avx2"])):
        with monkeypatch.context() as patched:
            patched.setattr(remembered, name, lambda value=value: value)
            others.append(Memory(RECIPE, LOOP, CPU))
    with monkeypatch.context() as patched:
        patched.setattr(torch, "get_num_threads", lambda: 77)
        others.append(Memory(RECIPE, LOOP, CPU))
    assert len({known, *(other.key for other in others)}) == 1 + len(others)
    assert all(other.find() is None for other in others)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 0, "choices": {}}', '{"version": 1, "choices": [3]}'])
def test_a_file_that_cannot_be_read_is_as_if_it_were_not_there(cache, content):
    cache.parent.mkdir(parents=True)
    cache.write_text(content)
    memory = Memory(RECIPE, LOOP, CPU)
    assert memory.find() is None
    memory.keep(FOUND)
    assert memory.find().format == OTHER


def test_a_damaged_row_or_a_format_that_is_not_free_is_not_taken(cache):
    memory = Memory(RECIPE, LOOP, CPU)
    memory.keep(FOUND)
    content = json.loads(cache.read_text())
    for row in ({}, {**content["choices"][memory.key], "format": {"precision": "fp8", "channels_last": True}}, 3):
        cache.write_text(json.dumps({**content, "choices": {memory.key: row}}))
        assert memory.find() is None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    Memory(RECIPE, LOOP, CPU).keep(FOUND)
    assert Memory(RECIPE, LOOP, CPU).find() is None
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    monkeypatch.setenv("XDG_CACHE_HOME", str(locked))
    if os.geteuid():  # root may write anywhere
        Memory(RECIPE, LOOP, CPU).keep(FOUND)
        assert not list(locked.iterdir())


def test_the_oldest_choices_go(cache, monkeypatch):
    monkeypatch.setattr(remembered, "MOST", 3)
    memories = [Memory({"batch": number}, LOOP, CPU) for number in range(4)]
    for memory in [*memories, memories[1]]:
        memory.keep(FOUND)
    assert [bool(memory.find()) for memory in memories] == [False, True, True, True]
    assert list(json.loads(cache.read_text())["choices"])[-1] == memories[1].key


def test_a_default_that_cannot_run_has_no_ratio():
    Memory(RECIPE, LOOP, CPU).keep(Trial((Tried(FP32, None, "does not fit"), Tried(OTHER, 1.0)), 2.0))
    choice = Memory(RECIPE, LOOP, CPU).find()
    assert choice.gain is None and "fp32, channels_last cannot run" in str(choice)


def test_the_machine_is_described_by_its_processor():
    assert machine(CPU)["cpu"] == cpu_model() != "" and machine(CPU)["flags"] == cpu_flags() == sorted(cpu_flags())
