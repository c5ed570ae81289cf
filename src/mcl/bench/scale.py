"""``mcl bench scale``: what a step costs on many GPUs, computed. The formulas are told in docs/scale.md."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from mcl.bench.step import variant_name
from mcl.bench.tables import Table
from mcl.config.bench import BenchScaleSettings
from mcl.errors import UserError
from mcl.methods.flops import REST, count_flops
from mcl.methods.step import TrainingStep

BYTES = 4  # gradients, targets and statistics travel as fp32
COLUMNS = {
    "gpus": ("GPUs", "{}"), "per_gpu": ("images a GPU", "{}"), "compute": ("compute", "{:.1f} ms"),
    "gradients": ("gradients", "{:.1f} ms"), "exposed": ("not hidden", "{:.1f} ms"), "gather": ("targets", "{:.2f} ms"),
    "sync_bn": ("SyncBN", "{:.1f} ms"), "step": ("step", "{:.1f} ms"), "images_per_second": ("images/s", "{:,.0f}"),
    "efficiency": ("efficiency", "{:.0%}"), "node_bn_efficiency": ("with BN per machine", "{:.0%}"),
    "hours": ("run", "{:.1f} h"),
}  # fmt: skip


@dataclass(frozen=True)
class Counted:
    """What one process does in a step, counted.

    Attributes:
        online: FLOPs of the online network, forward and backward.
        target: FLOPs of the target network, forward.
        logits: FLOPs of the logits with this process's own targets, forward and backward.
        parameters: trained numbers.
        gathered: numbers that are handed to every other process (target embeddings).
        online_norms: channels of every call of a BatchNorm in the online network.
        target_norms: the same of the target network.
    """

    online: int
    target: int
    logits: int
    parameters: int
    gathered: int
    online_norms: tuple[int, ...]
    target_norms: tuple[int, ...]


@dataclass(frozen=True)
class Wires:
    """Bandwidth in bytes/s and latency in seconds; inside a machine of ``node`` GPUs and between machines."""

    node: int
    link: float
    network: float
    link_latency: float
    network_latency: float

    def bandwidth(self, gpus: int) -> float:
        """Of a ring over all GPUs: its slowest wire."""
        return self.link if gpus <= self.node else min(self.link, self.network)

    def latency(self, gpus: int) -> float:
        """Of one way through a tree: a hop for each doubling, inside machines and between them."""
        inside, machines = min(gpus, self.node), math.ceil(gpus / self.node)
        return (
            math.ceil(math.log2(inside)) * self.link_latency
            + math.ceil(math.log2(machines)) * self.network_latency
        )

    def all_reduce(self, size: float, gpus: int) -> float:
        """Seconds to sum ``size`` bytes over the GPUs: 2 (G-1)/G size / bandwidth, and two ways of latency."""
        return 2 * (gpus - 1) / gpus * size / self.bandwidth(gpus) + 2 * self.latency(gpus)

    def all_gather(self, size: float, gpus: int) -> float:
        """Seconds until everyone has everyone's ``size`` bytes: (G-1) size / bandwidth, and one way of latency."""
        return (gpus - 1) * size / self.bandwidth(gpus) + self.latency(gpus)


def count_step(settings: BenchScaleSettings, per_gpu: int) -> Counted:
    """Count a step of ``per_gpu`` images on tensors without data."""
    step = TrainingStep(settings.model_copy(update={"batch": per_gpu}), "meta")
    method = step.method
    online, calls = set(method.trained.modules()), {"online": [], "target": []}
    for module in method.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            side = calls["online" if module in online else "target"]
            module.register_forward_pre_hook(lambda module, _, side=side: side.append(module.num_features))
    flops = count_flops(method.components(), step.gradients_only)
    return Counted(
        online=sum(count for name, count in flops.items() if name not in ("target", REST)),
        target=flops.get("target", 0),
        logits=flops[REST],
        parameters=sum(p.numel() for p in method.trained.parameters()),
        gathered=method.gathered_numbers(per_gpu),
        online_norms=tuple(calls["online"]),
        target_norms=tuple(calls["target"]),
    )


def sync_bn(counted: Counted, wires: Wires, gpus: int) -> float:
    """Seconds of SyncBN: forward gathers mean, variance and count of every call, backward sums two vectors."""
    forward = sum(
        wires.all_gather(BYTES * (2 * channels + 1), gpus)
        for channels in counted.online_norms + counted.target_norms
    )
    backward = sum(wires.all_reduce(BYTES * 2 * channels, gpus) for channels in counted.online_norms)
    return forward + backward


def model_step(counted: Counted, wires: Wires, gpus: int, flops: float, overlap: float) -> dict[str, float]:
    """Seconds of each part of a step on ``gpus`` GPUs that reach ``flops`` FLOP/s each."""
    compute = (counted.online + counted.target + gpus * counted.logits) / flops
    backward = 2 / 3 * counted.online / flops
    gradients = wires.all_reduce(BYTES * counted.parameters, gpus)
    exposed = max(0.0, gradients - overlap * backward)
    gather = wires.all_gather(BYTES * counted.gathered, gpus)
    norms = sync_bn(counted, wires, gpus)
    step = compute + exposed + gather + norms
    node_norms = sync_bn(counted, wires, min(gpus, wires.node))
    return {
        "compute": compute, "gradients": gradients, "exposed": exposed, "gather": gather, "sync_bn": norms,
        "step": step, "efficiency": compute / step, "node_bn_efficiency": compute / (step - norms + node_norms),
    }  # fmt: skip


def scale_table(settings: BenchScaleSettings) -> tuple[Table, dict[str, dict]]:
    """The cost model's table, and what was counted for each number of GPUs.

    Raises:
        UserError: the batch is too small for that many GPUs.
    """
    wires = Wires(
        settings.node, settings.link * 1e9, settings.network * 1e9,
        settings.link_latency * 1e-6, settings.network_latency * 1e-6,
    )  # fmt: skip
    flops = settings.peak_tflops * 1e12 * settings.utilisation
    rows, counts = [], {}
    for gpus in settings.gpus:
        per_gpu = settings.per_gpu or settings.batch // gpus
        if per_gpu < 2:
            raise UserError(
                f"--gpus {gpus}: a batch of {settings.batch} leaves {per_gpu} images a GPU; give --per_gpu"
            )
        counted = count_step(settings, per_gpu)
        parts = model_step(counted, wires, gpus, flops, settings.overlap)
        rate = gpus * per_gpu / parts["step"]
        milliseconds = {k: v if k.endswith("efficiency") else 1e3 * v for k, v in parts.items()}
        rows.append({
            "gpus": gpus, "per_gpu": per_gpu, **milliseconds, "images_per_second": rate,
            "hours": _run_images(settings, gpus * per_gpu) / rate / 3600,
        })  # fmt: skip
        counts[str(gpus)] = _plain(counted)
    return Table(_title(settings), COLUMNS, rows, _notes(settings)), counts


def _run_images(settings: BenchScaleSettings, batch: int) -> float:
    schedule = settings.schedule
    return schedule.steps * batch if schedule.steps else (schedule.epochs or 1) * settings.images


def _title(settings: BenchScaleSettings) -> str:
    return (
        f"Computed, not measured: {settings.model.backbone}, {settings.image_size} px, {settings.method.name} "
        f"{variant_name(settings)}"
    )


def _notes(settings: BenchScaleSettings) -> list[str]:
    return [
        f"assumed: {settings.peak_tflops:g} TFLOP/s a GPU of which {settings.utilisation:.0%} are reached, {settings.node} "
        f"GPUs a machine, {settings.link:g} GB/s and {settings.link_latency:g} us inside, {settings.network:g} GB/s and "
        f"{settings.network_latency:g} us between machines, {settings.overlap:.0%} of backward hides gradients"
    ]


def _plain(counted: Counted) -> dict[str, int]:
    return {
        "online_flop": counted.online, "target_flop": counted.target, "logits_flop": counted.logits,
        "gradient_bytes": BYTES * counted.parameters,
        "target_bytes": BYTES * counted.gathered,
        "norm_calls_online": len(counted.online_norms), "norm_calls_target": len(counted.target_norms),
        "norm_channels": sum(counted.online_norms) + sum(counted.target_norms),
    }  # fmt: skip
