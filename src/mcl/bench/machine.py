"""What the numbers were measured on."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch
import torchvision

from mcl.engine.machine.processor import cpu_model


def describe_machine() -> dict[str, Any]:
    """CPU, cores, memory, GPU, versions and thread settings, as plain types."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "memory_gb": round(_memory_bytes() / 2**30, 1),
        "gpus": gpus,
        "threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
        "load_average": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else [],
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def one_line(machine: dict[str, Any]) -> str:
    """For the line under a table."""
    where = (
        ", ".join(machine["gpus"]) or f"{machine['cpu']}, {machine['cores']} cores ({machine['capability']})"
    )
    return f"{where}; torch {machine['torch']}, {machine['threads']} threads"


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
