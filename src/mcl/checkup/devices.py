"""Cores, memory and GPUs."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from mcl.bench.machine import describe_machine
from mcl.bench.tables import Table
from mcl.checkup.finding import Finding
from mcl.config.doctor import DoctorSettings
from mcl.engine.machine.memory import free_bytes, usable_cores
from mcl.methods.build import wanted_of

COLUMNS = {"what": ("device", "{}"), "found": ("found", "{}")}
SHARED = Path("/dev/shm")  # workers hand batches over through it
PREFETCH = 4  # batches that a worker keeps ready (data/loading/loader.py)
GB = 2**30


def check_devices(settings: DoctorSettings, device: torch.device) -> Finding:
    """What there is to compute with, and settings that do not go with it."""
    machine, cores, threads = describe_machine(), usable_cores(), torch.get_num_threads()
    free = free_bytes()
    rows = [
        {"what": "CPU", "found": f"{machine['cpu']} ({machine['capability']})"},
        {"what": "cores", "found": f"{cores} usable of {machine['cores']}; torch uses {threads} threads"},
        {"what": "memory", "found": f"{machine['memory_gb']:.1f} GB, {(free or 0) / GB:.1f} GB free"},
    ]
    warnings = []
    if threads > cores:
        warnings.append(
            f"torch uses {threads} threads on {cores} cores, which is slower: --loop.threads {cores}"
        )
    if SHARED.is_dir():
        left, needed = shutil.disk_usage(SHARED).free, shared_bytes(settings)
        rows.append(
            {
                "what": "shared memory",
                "found": f"{left / GB:.2f} GB free; the workers' batches take {needed / GB:.2f}",
            }
        )
        if needed > left:
            warnings.append(
                f"the loader's batches take {needed / GB:.2f} GB of {SHARED}, which has {left / GB:.2f} GB: fewer "
                "--loop.workers, or more shared memory (docker run --shm-size)"
            )
    rows += _gpu_rows()
    if torch.cuda.is_available() and device.type == "cpu":
        warnings.append("there is a GPU and --loop.device cpu leaves it unused: --loop.device auto")
    verdict = f"trains on {_name(device)}"
    numbers = {"usable_cores": cores, "threads": threads, "free_bytes": free}
    return Finding("devices", Table("Devices", COLUMNS, rows), verdict, warnings, numbers)


def shared_bytes(settings: DoctorSettings) -> int:
    """What the batches that workers keep ready take."""
    pixels = sum(spec.size**2 for spec in wanted_of(settings).views)
    return settings.loop.workers * PREFETCH * settings.batch * 3 * pixels


def _gpu_rows() -> list[dict[str, str]]:
    rows = []
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        free = torch.cuda.mem_get_info(index)[0]
        rows.append({
            "what": f"GPU {index}", "found": f"{about.name}, {about.total_memory / GB:.1f} GB, {free / GB:.1f} GB free"
            f" (CUDA {torch.version.cuda})",
        })  # fmt: skip
    return rows or [{"what": "GPU", "found": "none that torch sees"}]


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
