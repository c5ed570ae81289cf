"""Settings of ``mcl bench step``, ``data``, ``loop`` and ``scale``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, create_model

from mcl.config.base import Command
from mcl.config.method import TrainedParts
from mcl.config.pretrain import PretrainSettings

# What a recipe may hold, taken from ``pretrain`` so that its types, defaults and texts are there once.
RECIPE_FIELDS = (
    "recipe", "config", "seed", "batch", "accumulate", "image_size", "model", "method", "views", "optim", "schedule", "loop",
)  # fmt: skip
_Recipe = create_model(
    "_Recipe",
    __base__=Command,
    **{name: (PretrainSettings.model_fields[name].annotation, PretrainSettings.model_fields[name]) for name in RECIPE_FIELDS},
)  # fmt: skip

Size = Annotated[str, Field(pattern=r"^\d+x\d+$")]
Fraction = Annotated[float, Field(ge=0, le=1)]


class BenchSettings(_Recipe):
    """A pre-training recipe, and where the numbers go."""

    choices: ClassVar = PretrainSettings.choices
    common: ClassVar = ("recipe", "config", "method.name", "model.backbone", "image_size", "batch", "loop.device", "loop.threads", "json")

    json_file: Path | None = Field(
        None, alias="json", description="File for the numbers, the settings and the machine's description."
    )

    def pretrain(self, data: Path, out: Path, **changes: Any) -> PretrainSettings:
        """The settings of ``mcl pretrain`` for this recipe; ``changes`` replace whole sections."""
        recipe = {name: getattr(self, name) for name in RECIPE_FIELDS}
        return PretrainSettings(**{**recipe, "data": data, "out": out, **changes})


class BenchStepSettings(BenchSettings):
    """Time one training step of each way to compute the loss, its floor, and the baselines, in turn."""

    common: ClassVar = (*BenchSettings.common, "rounds", "baselines", "memory")

    rounds: int = Field(5, ge=1, description="Timed steps of each side; the median is shown.")
    warmup: int = Field(1, ge=0, description="Steps of each side before timing.")
    baselines: list[str] = Field([], description="Also time these methods (mcl methods lists them).")
    baseline_parts: TrainedParts = Field("backbone", description="Parts that the baselines train.")
    best_layout: bool = Field(
        True, description="Each side in the memory layout that is quicker for it, found by a trial; false: all as loop.channels_last says."
    )
    memory: bool = Field(
        True, description="Measure peak memory (on a CPU each side in a process of its own)."
    )
    parts: bool = Field(True, description="Time the parts of each side in extra steps.")


class BenchDataSettings(BenchSettings):
    """Images/s of the loader and of JPEG decoding, ours against the plain order, in turn."""

    common: ClassVar = (*BenchSettings.common, "data", "sizes", "images", "workers")

    sizes: list[Size] = Field(
        ["500x375", "128x128", "4000x3000"], description="Sizes of the generated JPEGs, width x height."
    )
    data: Path | None = Field(None, description="Measure on these images instead of generated ones.")
    images: int = Field(
        96,
        ge=2,
        description="Images a measurement, for pictures of half a megapixel or less; fewer of larger ones.",
    )
    workers: list[Annotated[int, Field(ge=1, le=64)]] = Field(
        [1, 2], description="Numbers of loader processes; [] leaves images/s out."
    )
    rounds: int = Field(3, ge=1, description="Measurements of each side; the median is shown.")
    step: bool = Field(
        True, description="Also time the recipe's training step, to tell what share of it loading takes."
    )


class BenchLoopSettings(BenchSettings):
    """Share of a real pre-training run's time that is not the model's step."""

    common: ClassVar = (*BenchSettings.common, "data", "images", "steps")

    data: Path | None = Field(None, description="Images to train on; none: generated JPEGs of 500x375.")
    images: int = Field(192, ge=2, description="How many images to generate.")
    steps: int = Field(60, ge=2, description="Steps of the run.")
    skip: int = Field(
        10, ge=1, description="First steps that are not counted (workers start, memory is got)."
    )


class BenchScaleSettings(BenchSettings):
    """Cost model of training on many GPUs, computed from counted FLOPs and bytes; or processes here, measured."""

    common: ClassVar = (*BenchSettings.common, "gpus", "per_gpu", "measure", "link", "network")

    recipe: str | None = Field("mcl-r50-imagenet", description="Shipped settings to start from.")
    measure: list[Annotated[int, Field(ge=1, le=64)]] = Field(
        [], description="Instead: time steps of the recipe's batch on these numbers of processes of this machine."
    )
    measure_steps: int = Field(5, ge=1, description="Timed steps of each number of processes.")
    gpus: list[Annotated[int, Field(ge=1)]] = Field([8, 16, 32, 64, 128, 256], description="Numbers of GPUs.")
    per_gpu: int | None = Field(None, ge=2, description="Images a GPU and step; none: batch / gpus.")
    images: int = Field(
        1_281_167, ge=1, description="Images of the training set (ImageNet), for the hours of a run."
    )
    peak_tflops: float = Field(
        312.0, gt=0, description="Peak of one GPU in the recipe's precision (A100, bf16), TFLOP/s."
    )
    utilisation: float = Field(
        0.3, gt=0, le=1, description="Share of the peak that the step's convolutions reach."
    )
    node: int = Field(8, ge=1, description="GPUs of one machine.")
    link: float = Field(200.0, gt=0, description="All-reduce bandwidth inside a machine (NVLink), GB/s.")
    network: float = Field(25.0, gt=0, description="Network bandwidth of a machine, GB/s.")
    link_latency: float = Field(10.0, ge=0, description="Latency of one hop inside a machine, microseconds.")
    network_latency: float = Field(
        20.0, ge=0, description="Latency of one hop between machines, microseconds."
    )
    overlap: Fraction = Field(
        0.8, description="Share of the backward pass behind which gradients can be sent."
    )
