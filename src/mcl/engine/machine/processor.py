"""Which processor this is."""

from __future__ import annotations

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def cpu_model() -> str:
    """The processor's name, as far as the system tells."""
    return _first("model name") or platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """Its instruction sets by Linux's names, sorted (a virtual machine may hide some of its processor's)."""
    return sorted((_first("flags") or _first("Features")).split())


def _first(name: str) -> str:
    try:
        lines = CPUINFO.read_text("utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), "")
