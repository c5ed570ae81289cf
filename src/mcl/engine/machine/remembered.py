"""What trials of number formats have found on this machine, so that the next run of the same recipe need not ask again."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mcl.config.optim import LoopSettings
from mcl.engine.machine.precision import Format, Trial, formats_for
from mcl.engine.machine.processor import cpu_flags, cpu_model
from mcl.files import user_cache, write_whole

NAME = "formats.json"
VERSION = 1  # of the file, and of how steps are computed: a larger one forgets what older ones found
#: settings of the loop on which a step's time depends, besides number format, layout and threads
PACING = {"activation_checkpointing", "compile", "matrix_gradients", "keep_memory", "sync_bn"}
MOST = 200  # choices that are kept, the newest


@dataclass(frozen=True)
class Choice:
    """What was chosen once.

    Attributes:
        gain: the default's time over the chosen format's; none where the default could not run.
        default: the format that it is compared with.
        day: when, as ``2025-12-31``.
    """

    format: Format
    default: Format
    gain: float | None
    day: str

    def __str__(self) -> str:
        compared = f"{self.gain:.2f} times as fast as {self.default}" if self.gain else f"{self.default} cannot run"
        told = "the default" if self.format == self.default else compared
        return f"takes {self.format}, {told}: remembered from a trial on {self.day} ({cache_file()})"


class Memory:
    """Choices for one recipe on one machine.

    Args:
        recipe: whatever besides its loop decides how long a step takes, as plain types.
        loop: of the recipe; what is free in it is chosen.
        device: where steps compute.
        processes: of the run.
    """

    def __init__(
        self, recipe: Mapping[str, Any], loop: LoopSettings, device: torch.device, processes: int = 1
    ) -> None:
        formats = formats_for(loop)
        about = {
            **machine(device), "processes": processes, "formats": list(map(str, formats)), "recipe": recipe,
            "loop": loop.model_dump(include=PACING),
        }  # fmt: skip
        text = json.dumps(about, sort_keys=True, default=str)
        self.key = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
        self.formats = formats

    def find(self) -> Choice | None:
        """What was chosen; none if nothing is known, or what is there cannot be read."""
        row = _read().get(self.key)
        try:
            chosen, default = (Format(**row[name]) for name in ("format", "default"))
            choice = Choice(chosen, default, float(row["gain"]) if row["gain"] else None, str(row["day"]))
        except (TypeError, KeyError, ValueError):
            return None
        return choice if choice.format in self.formats and choice.default in self.formats else None

    def keep(self, trial: Trial, today: Callable[[], str] = lambda: time.strftime("%Y-%m-%d")) -> None:
        """Write down what a trial has chosen; where the file cannot be written, nothing is."""
        choice = Choice(trial.chosen.format, trial.tried[0].format, trial.gain, today())
        rows = {key: row for key, row in _read().items() if key != self.key}
        kept = dict([*rows.items(), (self.key, asdict(choice))][-MOST:])
        try:
            cache_file().parent.mkdir(parents=True, exist_ok=True)
            write_whole(cache_file(), json.dumps({"version": VERSION, "choices": kept}, indent=1) + "\n")
        except OSError:
            pass  # the next run makes its own trial


def machine(device: torch.device) -> dict[str, Any]:
    """What of the machine decides how long a step takes, as plain types."""
    found = {
        "torch": torch.__version__, "cpu": cpu_model(), "flags": cpu_flags(),
        "threads": torch.get_num_threads(), "wait": os.environ.get("OMP_WAIT_POLICY", ""), "device": device.type,
    }  # fmt: skip
    return found | ({"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {})


def cache_file() -> Path:
    """Where choices are kept."""
    return user_cache() / NAME


def _read() -> dict[str, Any]:
    try:
        content = json.loads(cache_file().read_text("utf-8"))
        return dict(content["choices"]) if content["version"] == VERSION else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}
