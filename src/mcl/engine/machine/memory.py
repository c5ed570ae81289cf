"""How much memory this process has used, and how much it may use."""

from __future__ import annotations

import errno
import os
import re
import resource
import sys
from pathlib import Path

import torch

from mcl.errors import OutOfMemory, UserError

CPU = torch.device("cpu")
CGROUP = Path("/sys/fs/cgroup")
#: of RuntimeErrors: torch's allocator, its libraries for GPUs, oneDNN, shared memory between loader processes
WORDS = (
    "can't allocate memory", "Cannot allocate memory", "not enough memory", "out of memory", "_ALLOC_FAILED",
    "std::bad_alloc", "unable to allocate shared memory",
)  # fmt: skip


def reset_peak(device: torch.device = CPU) -> None:
    """Let ``peak_bytes`` start again from what is used now (on a CPU only where Linux allows it)."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # not Linux, or not allowed: an earlier peak then counts


def peak_bytes(device: torch.device = CPU) -> int:
    """Most memory used at once: of the process (resident set), or of torch's allocator on a GPU.

    Linux hands a parent's ``ru_maxrss`` on to its children, so the process's own high-water mark is read.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    own = _status("VmHWM")
    if own is not None:
        return own
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def used_bytes(device: torch.device = CPU) -> int:
    """Memory used now, as ``peak_bytes`` counts it (a peak where the system does not tell)."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated()
    return _status("VmRSS") or peak_bytes(device)


def free_bytes(device: torch.device = CPU) -> int | None:
    """Memory that can still be had: of the GPU, or of the machine and the container; None where unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
        machine = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    left = _container_left()
    return machine if left is None else min(machine, left)


def gpu_share() -> float | None:
    """Share of the current GPU's memory that torch has taken at its peak; None if torch uses no GPU."""
    if not torch.cuda.is_available() or not torch.cuda.max_memory_reserved():
        return None
    return (
        torch.cuda.max_memory_reserved()
        / torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's, torch's on a CPU or a GPU, or the system's (a fork, a mapped file).

    torch has a class of its own for GPUs only; elsewhere, and in what a loader process hands on, the words tell.
    """
    if isinstance(error, UserError):
        return isinstance(error, OutOfMemory)
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error) for words in WORDS)


def describe_out_of_memory(error: BaseException) -> str:
    """Where memory ran out, and how much was asked for in vain, as far as an error tells."""
    if isinstance(error, OutOfMemory):
        return str(error)
    where = "GPU memory" if "CUDA" in str(error) else "memory"
    amount = re.search(r"allocat\w+ (\d[\d.]*) ?(bytes|[KMGT]i?B)\b", str(error))
    if amount is None:
        return f"out of {where}"
    size, unit = float(amount[1]), amount[2]
    if unit == "bytes":
        size, unit = (size / 2**30, "GiB") if size >= 2**30 else (size / 2**20, "MiB")
    return f"out of {where} ({size:,.1f} {unit} could not be had)"


def usable_cores() -> int:
    """CPU cores that this process may use: by its affinity and by the container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (CGROUP / "cpu.max").read_text("utf-8").split()
        cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no container, or no quota ("max")
    return cores


def _container_left() -> int | None:
    try:
        limit, used = (int((CGROUP / name).read_text("utf-8")) for name in ("memory.max", "memory.current"))
        cached = (CGROUP / "memory.stat").read_text("utf-8").splitlines()
        reclaimable = sum(int(line.split()[1]) for line in cached if line.startswith("inactive_file "))
    except (OSError, ValueError):
        return None
    return max(0, limit - used + reclaimable)


def _status(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
    except (OSError, StopIteration):
        return None
