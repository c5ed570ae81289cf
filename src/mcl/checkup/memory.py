"""Whether a recipe fits memory: estimated from shapes alone, then measured on a real step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mcl.bench.memory import step_memory
from mcl.bench.step import variant_name
from mcl.bench.tables import Table
from mcl.checkup.finding import Finding
from mcl.config.bench import RECIPE_FIELDS, BenchStepSettings
from mcl.config.doctor import DoctorSettings
from mcl.engine.machine.memory import free_bytes, used_bytes
from mcl.errors import RunFailed
from mcl.methods.build import Recipe
from mcl.methods.step import TrainingStep

COLUMNS = {
    "what": ("memory", "{}"), "estimated": ("estimated", "{:,.0f} MB"), "measured": ("measured", "{:,.0f} MB"),
}  # fmt: skip
MB = 2**20
FULL = 0.9  # of the free memory; beyond it does not fit
SMALL_BATCH = 8  # what is measured when the recipe's own batch does not fit
STATES = {"adamw": 2, "sgd": 1, "lars": 1}  # numbers that an optimizer keeps for each weight


def check_memory(settings: DoctorSettings, device: torch.device) -> Finding:
    """Estimate the recipe's memory, measure a step if there is room for it (else one of a small batch)."""
    free, estimated = free_bytes(device), estimate(settings)
    process = 0 if device.type == "cuda" else used_bytes()
    needed = process + total(estimated)
    fits = free is None or needed <= FULL * free
    batch = settings.batch if fits else min(settings.batch, SMALL_BATCH)
    at_batch = settings.model_copy(update={"batch": batch})
    warnings, measured = [], {}
    try:
        measured = measure(at_batch, device)
    except RunFailed as error:
        warnings.append(str(error))
    if measured and fits:
        needed = int(MB * sum(measured.values()))
        fits = free is None or needed <= FULL * free
    room = "" if free is None else f" of {free / MB:,.0f} MB free"
    verdict = f"a step of {settings.batch} images takes {needed / MB:,.0f} MB{room}"
    if not fits:
        least = fitting_batch(settings, estimated, process, free)
        advice = (
            f"--batch {least} would fit"
            if least >= 2
            else "not even two images fit: a smaller --image_size or --model.*"
        )
        warnings.append(f"{verdict}: does not fit; {advice}")
    shown = estimated if batch == settings.batch else estimate(at_batch)
    notes = [
        "estimated from shapes: saved activations, weights, optimizer; not: scratch space of convolutions"
    ]
    if batch != settings.batch:
        notes.insert(0, f"{settings.batch} images are estimated to take {needed / MB:,.0f} MB{room}")
    table = Table(f"Memory: a step of {batch} images", COLUMNS, _rows(shown, measured, process), notes)
    numbers = {
        "batch": batch,
        "estimated": estimated,
        "measured_mb": measured,
        "needed": needed,
        "free": free,
    }
    return Finding("memory", table, verdict, warnings, numbers)


def estimate(settings: Recipe) -> dict[str, int]:
    """Bytes of a training step's parts, counted on tensors without data.

    Returns:
        ``model`` (weights and statistics of online and target network, and the batch), ``optimizer``,
        ``gradients``, ``activations`` (what autograd keeps for a backward pass; half as much in bf16).
    """
    step = TrainingStep(settings, "meta")
    kept = _Kept(step.method)
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
        loss, _ = next(step.method.losses(step.batch, 0, settings.accumulate))  # the pieces come one at a time
    views = list(step.batch["views"].values())
    gradients = sum(p.nbytes for p in step.method.trained.parameters())
    half = 2 if settings.loop.precision == "bf16" else 1
    del loss
    return {
        "model": sum(t.nbytes for t in [*step.method.parameters(), *step.method.buffers(), *views]),
        "optimizer": STATES[settings.optim.name] * gradients,
        "gradients": gradients,
        "activations": kept.bytes // half,
    }


def total(estimated: dict[str, int]) -> int:
    """Bytes at the peak: a later piece's activations beside the gradients of the earlier, or gradients held twice."""
    moving = estimated["gradients"] + max(estimated["activations"], estimated["gradients"])
    return estimated["model"] + estimated["optimizer"] + moving


def fitting_batch(settings: DoctorSettings, estimated: dict[str, int], process: int, free: int) -> int:
    """The largest batch whose estimate fits, rounded down to a multiple of 32 (whole montages) if there is one."""
    an_image = estimated["activations"] / settings.batch
    room = FULL * free - process - estimated["model"] - estimated["optimizer"]
    fitting = min(settings.batch, max(0, int(room / an_image)))
    return fitting // 32 * 32 or fitting


def measure(settings: DoctorSettings, device: torch.device) -> dict[str, float]:
    """MB of the process, of the model in it, and of a step on top, in a process of its own on a CPU.

    Raises:
        RunFailed: the step did not end, for lack of memory most likely.
    """
    recipe = {name: getattr(settings, name) for name in RECIPE_FIELDS}
    loop = settings.loop
    if loop.precision == "auto":
        recipe["loop"] = loop.model_copy(update={"precision": "fp32"})
    found = step_memory(BenchStepSettings(**recipe), variant_name(settings), device)
    return {
        "process": found["process_mb"],
        "model": found["model_mb"] - found["process_mb"],
        "step": found["peak_mb"],
    }


def _rows(estimated: dict[str, int], measured: dict[str, float], process: int) -> list[dict[str, Any]]:
    parts = {
        "process (Python, torch)": (process, "process"),
        "networks and a batch": (estimated["model"], "model"),
        "a step on top": (total(estimated) - estimated["model"], "step"),
    }
    rows = [
        {
            "what": what,
            "estimated": bytes_ / MB if name != "process" else None,
            "measured": measured.get(name),
        }
        for what, (bytes_, name) in parts.items()
    ]
    together = sum(measured.values()) if measured else None
    rows.append({"what": "together", "estimated": (process + total(estimated)) / MB, "measured": together})
    return rows


class _Kept:
    """Counts the storages that autograd keeps, each once, without the network's own tensors."""

    def __init__(self, module: nn.Module) -> None:
        own = [*module.parameters(), *module.buffers()]
        self._seen = {tensor.untyped_storage()._cdata for tensor in own}
        self._alive: list[Tensor] = []  # a storage's address may be used again once it is gone
        self.bytes = 0

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self._alive.append(tensor)
            self.bytes += storage.nbytes()
        return tensor
