"""Settings of ``mcl pretrain``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from mcl.config.base import Command, Section
from mcl.config.choice import Choice
from mcl.config.method import MethodSettings
from mcl.config.optim import LoopSettings, OptimSettings, ScheduleSettings
from mcl.config.unused import OnlyWith, of_schedule_and_optimizer
from mcl.config.watch import PretrainWatchSettings

Block = Annotated[int, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
# Text, not a path: a path would make one slash of a URL's two.
Location = Annotated[str, BeforeValidator(lambda given: os.fspath(given) if isinstance(given, Path) else given)]


class ViewSettings(Section):
    """Augmentation; each tile of each view gets its own."""

    crop_scale: tuple[Probability, Probability] = Field(
        (0.2, 1.0), description="Share of the image's area that a crop takes."
    )
    crop_ratio: tuple[float, float] = Field((3 / 4, 4 / 3), description="Aspect ratio of a crop.")
    flip: Probability = Field(0.5, description="Probability of a horizontal flip.")
    jitter: Probability = Field(0.8, description="Probability of colour jitter.")
    brightness: float = Field(0.4, ge=0, description="Strength of brightness jitter.")
    contrast: float = Field(0.4, ge=0, description="Strength of contrast jitter.")
    saturation: float = Field(0.2, ge=0, description="Strength of saturation jitter.")
    hue: float = Field(0.1, ge=0, le=0.5, description="Strength of hue jitter.")
    gray: Probability = Field(0.2, description="Probability of grayscale.")
    blur: tuple[Probability, Probability] = Field(
        (1.0, 0.1), description="Probability of Gaussian blur in views 1 and 2."
    )
    blur_radius: tuple[float, float] = Field(
        (0.1, 2.0),
        description="Radius of the blur in pixels of a 224 px view; in proportion for smaller tiles.",
    )
    solarize: tuple[Probability, Probability] = Field(
        (0.0, 0.2), description="Probability of solarizing in views 1 and 2."
    )
    solarize_threshold: int = Field(
        128, ge=0, le=255, description="Pixels at or above are inverted when solarizing."
    )
    downsample: Literal["tile", "stride"] = Field(
        "tile",
        description="tile: crop straight to tile size, anti-aliased; stride: full-size view, then every s-th pixel (the authors' way).",
    )
    cache_gb: float = Field(
        1.0,
        ge=0,
        description="Memory (10^9 bytes, in each training process) for pictures decoded once and shrunk to what the views "
        "need; a set that needs more is decoded anew every time. 0: no set is kept.",
    )
    device: Literal["cpu", "auto"] = Field(
        "cpu",
        description="Where colour, blur and flips are computed: cpu: where pictures are loaded; auto: where training is, "
        "which on a GPU takes most of the work from the loader. The pixels are the same.",
    )


class ModelSettings(Section):
    """The trunk and what is trained on top of it."""

    backbone: str = Field(
        "resnet50", description="timm name of a network with strides 4, 8, 16, 32, or of a plain vision transformer."
    )
    pretrained: bool = Field(
        False, description="Start the backbone from timm's default weights (downloads them)."
    )
    pyramid_channels: int = Field(256, ge=8, description="Channels of P2..P5 and of the head's convolutions.")
    head_convs: int = Field(4, ge=1, le=16, description="3x3 convolutions of the shared head.")
    finer: int = Field(
        0,
        ge=0,
        le=3,
        description="Read everything this many levels finer, in windows of twice (four times ...) as many cells: for "
        "detectors whose windows are larger than image_size / 32. 1: full-size images from P4.",
    )
    hidden: int = Field(2048, ge=8, description="Width inside projector and predictors.")
    embedding: int = Field(256, ge=8, description="Width of the embedding.")
    patch_size: int | None = Field(
        None, ge=4, le=32, description="Of a plain transformer: side of its patches in pixels; none: as its name says."
    )
    attention_window: int | None = Field(
        None, ge=1, description="Of a plain transformer: attention inside windows of so many cells a side; none: global."
    )
    global_blocks: list[Block] = Field(
        [], description="With attention_window: blocks that attend globally all the same; empty: four, evenly spread."
    )
    drop_path: float = Field(
        0.0, ge=0, lt=1, description="Share of images whose residual branch is left out, rising to this at the last block."
    )
    patch_projection: Literal["trained", "frozen"] = Field(
        "trained", description="Of a plain transformer: frozen: stays at its first values (MoCo v3, for stable training)."
    )
    positions: Literal["trained", "sincos"] = Field(
        "trained", description="Position embeddings of a plain transformer; sincos: fixed sines and cosines (MoCo v3, MAE)."
    )


class PretrainSettings(Command):
    """Pre-train a detector's trunk (backbone + pyramid + box head) on unlabeled images."""

    choices: ClassVar = (Choice("method", "mcl", "mcl.methods.registry"),)
    common: ClassVar = (
        "recipe", "config", "resume", "init_from", "method.name", "model.backbone", "image_size", "batch", "schedule.epochs",
        "schedule.steps", "optim.lr", "loop.workers", "loop.device",
    )  # fmt: skip
    locations: ClassVar = ("data", "init_from")
    only_with: ClassVar = (
        OnlyWith("init_parts", lambda s: s.init_from, "it goes with --init_from"),
        OnlyWith("allow_partial", lambda s: s.init_from or not s.allow_partial, "it goes with --init_from"),
        OnlyWith("watch.knn_data", lambda s: s.watch.knn_every, "it goes with --watch.knn_every"),
        OnlyWith("watch.knn_images", lambda s: s.watch.knn_every, "it goes with --watch.knn_every"),
        *of_schedule_and_optimizer(),
    )

    data: Location = Field(
        description="Images: a folder (searched recursively), a .txt list, a COCO .json, .tar shards or .parquet files "
        "(one, a folder or a pattern of them), a folder saved by datasets, or shards by URL or pipe:COMMAND."
    )
    out: Path = Field(description="Run folder to make.")
    recipe: str | None = Field("mcl-r18-64", description="Shipped settings to start from.")
    config: Path | None = Field(None, description="YAML file of settings, over the recipe.")
    resume: bool = Field(False, description="Continue the run in --out.")
    allow_changed: bool = Field(
        False, description="With --resume: go on although settings differ from the run's; says which."
    )
    overwrite: bool = Field(False, description="Replace the run in --out.")
    dry_run: bool = Field(False, description="Only print settings, steps, FLOPs, memory and time; writes nothing.")
    data_root: Path | None = Field(
        None, description="Folder that names of a list or JSON start from; default: the file's own."
    )
    data_cache: Path | None = Field(
        None,
        description="Folder for indexes of large folders and shards, fetched shards, converted tables, and what a method "
        "computes once of every image (proposals, segments); "
        "none: $XDG_CACHE_HOME/mcl.",
    )
    data_column: str | None = Field(None, description="Column of images in .parquet files; none: the only one.")
    max_pixels: int = Field(
        178_956_970,
        ge=4096,
        description="Largest width x height that is decoded; a larger image counts as unreadable.",
    )
    max_unreadable: Probability = Field(
        0.05, description="Stop when more than this share of images cannot be read."
    )
    seed: int = Field(0, ge=0, lt=2**62, description="Seed of everything random.")
    batch: int = Field(128, ge=2, description="Images a step.")
    accumulate: int = Field(
        1,
        ge=1,
        description="Micro-batches that a process computes its images in, one after the other, to need less memory; "
        "targets are those of the whole batch, BatchNorm statistics those of a micro-batch.",
    )
    image_size: int = Field(
        224, ge=32, multiple_of=32, description="Side of full-size images and montages in pixels."
    )
    init_from: str | None = Field(
        None,
        description="Weights to start from: a file (torchvision, timm, MoCo, BYOL, SimSiam, DenseCL, SwAV, DINO, "
        "Detectron2, MCL's authors), a trunk or run folder of ours, or a timm name; none: from scratch.",
    )
    init_parts: Literal["backbone", "backbone+pyramid", "backbone+pyramid+head"] | None = Field(
        None, description="Parts of init_from to take; none: every part it has."
    )
    allow_partial: bool = Field(
        False, description="Accept an init_from that lacks tensors of the parts asked for."
    )
    model: ModelSettings = ModelSettings()
    method: SerializeAsAny[MethodSettings] = MethodSettings()
    views: ViewSettings = ViewSettings()
    optim: OptimSettings = OptimSettings()
    schedule: ScheduleSettings = ScheduleSettings(epochs=100, warmup_epochs=10)
    loop: LoopSettings = LoopSettings()
    watch: PretrainWatchSettings = PretrainWatchSettings()
