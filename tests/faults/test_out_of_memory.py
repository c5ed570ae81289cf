"""Memory runs out, wherever it may: one line with the settings that need less, and the next try is not in the way."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import pytest
import torch

from mcl.cli import main
from mcl.data.loading.views import ViewMaker
from mcl.engine.machine.memory import describe_out_of_memory, is_out_of_memory
from mcl.errors import OutOfMemory, RunFailed
from mcl.nn.trunk import Trunk
from mcl.run.guard import guarded
from tiny import TINY

SAVINGS = "try a smaller --batch (now 8), more --accumulate (now 1) or --loop.activation_checkpointing true"


def too_much_for_torch(*_, **__):
    return torch.empty(2**60, dtype=torch.uint8)


def too_much_for_python(*_, **__):
    return bytes(2**60)


def at_call(number: int, allocate, original):
    """``original``, which at its n-th call asks for more memory than there is."""
    calls = []

    def call(*args, **kwargs):
        calls.append(1)
        return allocate() if len(calls) == number else original(*args, **kwargs)

    return call


@pytest.fixture
def mcl(photos, capsys):
    def call(out, *words: str) -> tuple[int, str]:
        capsys.readouterr()
        short = ["--schedule.steps", "6", "--loop.checkpoint_every", "4", *words]
        code = main(["pretrain", *TINY, *short, "--data", str(photos), "--out", str(out)])
        return code, capsys.readouterr().err

    return call


def told(code: int, error: str) -> None:
    assert code == 3 and error.startswith("mcl: error: out of memory") and error.count("\n") == 1
    assert error.endswith(f"{SAVINGS}\n")


@pytest.mark.parametrize("allocate", [too_much_for_torch, too_much_for_python])
@pytest.mark.parametrize("workers", ["0", "1"])
def test_in_the_loader(mcl, tmp_path, monkeypatch, allocate, workers):
    with monkeypatch.context() as patch:
        patch.setattr(ViewMaker, "cut", at_call(30, allocate, ViewMaker.cut))
        code, error = mcl(tmp_path / "run", "--loop.workers", workers)
    told(code, error)
    # Between two steps nothing is lost: 24 images are three steps (one loader process: those it had not yet handed on).
    assert "last.pt (step " in error
    assert mcl(tmp_path / "run", "--resume")[0] == 0


@pytest.mark.parametrize("step, kept", [(1, "none was written yet"), (3, "none was written yet"), (6, "last.pt (step 4)")])
def test_in_a_step(mcl, tmp_path, monkeypatch, step, kept):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        clip = torch.nn.utils.clip_grad_norm_
        patch.setattr(torch.nn.utils, "clip_grad_norm_", at_call(step, too_much_for_torch, clip))
        code, error = mcl(out)
    told(code, error)
    said = error.replace(f"{out}/checkpoints/", "")
    assert f"out of memory (1,073,741,824.0 GiB could not be had); last good checkpoint: {kept};" in said
    # Without a checkpoint the same command begins anew, with one it has to be told how.
    code, error = mcl(out)
    assert (code == 2 and "--resume to continue it" in error) if step == 6 else code == 0


def test_where_the_model_is_built(mcl, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Trunk, "__init__", too_much_for_torch)
        told(*mcl(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_settings_that_save_memory_already_are_not_advised(mcl, tmp_path, monkeypatch):
    monkeypatch.setattr(Trunk, "__init__", too_much_for_python)
    _, error = mcl(tmp_path / "run", "--accumulate", "2", "--loop.activation_checkpointing", "true")
    assert error.endswith("try a smaller --batch (now 8) or more --accumulate (now 2)\n")


def test_a_run_that_logged_numbers_is_kept(mcl, tmp_path, monkeypatch):
    """Ended by something else: whoever wants to know why finds them."""
    with monkeypatch.context() as patch:
        clip = torch.nn.utils.clip_grad_norm_
        patch.setattr(torch.nn.utils, "clip_grad_norm_", at_call(3, lambda: 1 / 0, clip))
        with pytest.raises(ZeroDivisionError):
            mcl(tmp_path / "run")
    numbers = (tmp_path / "run/metrics.jsonl").read_text()
    code, error = mcl(tmp_path / "run")
    assert code == 2 and "not empty; give --overwrite to replace it" in error
    assert (tmp_path / "run/metrics.jsonl").read_text() == numbers != ""


MESSAGES = {  # as torch 2.x writes them, on a CPU, on a GPU, of its libraries and of Linux
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "4294967296 bytes. Error code 12 (Cannot allocate memory)": "out of memory (4.0 GiB could not be had)",
    "CUDA out of memory. Tried to allocate 20.50 GiB. GPU 0 has a total capacity of 79.10 GiB of which 3.12 GiB is free.":
    "out of GPU memory (20.5 GiB could not be had)",
    "CUDA error: out of memory": "out of GPU memory", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED": "out of memory",
    "unable to mmap 8388608 bytes from file <x>: Cannot allocate memory (12)": "out of memory",
}  # fmt: skip


@pytest.mark.parametrize("message", MESSAGES)
def test_what_torch_says_is_understood(message):
    assert is_out_of_memory(RuntimeError(message))
    assert describe_out_of_memory(RuntimeError(message)) == MESSAGES[message]


def test_other_errors_are_no_lack_of_memory():
    assert is_out_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory")) and is_out_of_memory(OutOfMemory("x"))
    for error in (RuntimeError("mat1 and mat2 shapes"), RunFailed("killed (out of memory?)"), OSError(errno.EIO, "x")):
        assert not is_out_of_memory(error)


def test_a_command_advises_its_own_settings_only(tmp_path):
    @guarded
    def command(settings):
        raise MemoryError

    with pytest.raises(OutOfMemory, match=r"^out of memory; try a smaller --batch \(now 4\)$"):
        command(SimpleNamespace(batch=4, out=tmp_path))
