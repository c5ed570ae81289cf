"""Freed memory is taken again instead of being given back and zeroed by the system anew."""

import subprocess
import sys

import pytest

from mcl.engine.machine import allocator

STEPS = """
import resource, sys, torch
from mcl.engine.machine.allocator import freed_memory_kept
from mcl.engine.machine.memory import used_bytes

def step():
    for _ in range(4):  # held together, as activations are: 160 MB
        kept = [torch.ones(2_000_000) for _ in range(20)]

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

with freed_memory_kept(sys.argv[1] == "keep"):
    step()
    before = faults()
    step()
    inside = faults() - before
print(inside, used_bytes() / 2**20)
"""


def measured(word: str) -> tuple[int, float]:
    done = subprocess.run([sys.executable, "-c", STEPS, word], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    faults, used = done.stdout.split()
    return int(faults), float(used)


@pytest.mark.skipif(allocator._glibc() is None, reason="needs glibc")
def test_a_step_takes_the_memory_of_the_last_and_gives_it_back_in_the_end():
    plain, kept = measured("plain"), measured("keep")
    assert kept[0] < 0.1 * plain[0], "page faults of the second step"
    assert kept[1] < plain[1] + 30, "MB still used after the block"


def test_another_c_library_changes_nothing(monkeypatch):
    monkeypatch.setattr(allocator, "_glibc", lambda: None)
    with allocator.freed_memory_kept():
        assert not allocator._Kept.blocks


def test_a_block_in_a_block_ends_with_the_outer_one(monkeypatch):
    calls = []

    class Libc:
        mallopt = staticmethod(lambda *pair: calls.append(pair))
        malloc_trim = staticmethod(lambda pad: calls.append("trim"))

    monkeypatch.setattr(allocator, "_glibc", Libc)
    with pytest.raises(KeyError), allocator.freed_memory_kept():
        with allocator.freed_memory_kept():
            pass
        assert calls == list(allocator.KEEPING.items())
        raise KeyError
    assert calls[len(allocator.KEEPING) :] == [*allocator.GIVING_BACK.items(), "trim"]
