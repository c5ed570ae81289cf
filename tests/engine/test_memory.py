"""What the process uses and may use."""

from __future__ import annotations

import mmap
import os

import numpy as np

from mcl.engine.machine import memory

MB = 2**20


def test_the_peak_is_a_high_water_mark_that_can_be_reset():
    memory.reset_peak()
    before = memory.peak_bytes()
    block = mmap.mmap(-1, 64 * MB)  # fresh from the system: an array may get memory that the process kept
    np.frombuffer(block, dtype=np.uint8)[::4096] = 1
    block.close()
    risen = memory.peak_bytes()
    assert 60 * MB < risen - before < 200 * MB
    memory.reset_peak()
    assert memory.peak_bytes() < risen - 50 * MB
    assert 0 < memory.used_bytes() <= memory.peak_bytes()


def test_free_memory_is_no_more_than_the_container_leaves(monkeypatch, tmp_path):
    assert memory.free_bytes() > 10 * MB
    for name, text in {"memory.max": str(900 * MB), "memory.current": str(500 * MB),
                       "memory.stat": f"anon 5\ninactive_file {100 * MB}\n", "cpu.max": "150000 100000"}.items():  # fmt: skip
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.free_bytes() == 500 * MB
    assert memory.usable_cores() == 1
    (tmp_path / "cpu.max").write_text("max 100000")
    assert memory.usable_cores() == len(os.sched_getaffinity(0))


def test_without_a_gpu_there_is_no_share_of_it(monkeypatch):
    monkeypatch.setattr(memory.torch.cuda, "is_available", lambda: False)
    assert memory.gpu_share() is None


def test_share_of_a_gpu(monkeypatch):
    cuda = memory.torch.cuda
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "max_memory_reserved", lambda: 12 * MB)
    monkeypatch.setattr(cuda, "current_device", lambda: 0)
    monkeypatch.setattr(cuda, "get_device_properties", lambda index: type("P", (), {"total_memory": 16 * MB}))
    assert memory.gpu_share() == 0.75
