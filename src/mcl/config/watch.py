"""Settings of the watchdogs: when a run says that something looks wrong. They never change the training."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from mcl.config.base import Section


class WatchSettings(Section):
    """Thresholds of the warnings; none switches one off."""

    window: int = Field(
        200, ge=20, le=10_000, description="Steps that make up 'usual' for the warnings below."
    )
    loss_spike: float | None = Field(
        8.0,
        gt=0,
        description="Warn when a step's loss is this many deviations above its running median; none: never.",
    )
    gradient_spike: float | None = Field(
        10.0,
        gt=1,
        description="Warn when a step's gradient norm is this many times its running median; none: never.",
    )
    gradient_growth: float | None = Field(
        100.0,
        gt=1,
        description="Warn when the running median of the gradient norm is this many times its lowest so far; none: never.",
    )
    data_wait: float | None = Field(
        0.2,
        gt=0,
        lt=1,
        description="Warn when more than this share of the time is spent waiting for data; none: never.",
    )
    gpu_memory: float | None = Field(
        0.95,
        gt=0,
        le=1,
        description="Warn when torch holds more than this share of the GPU's memory; none: never.",
    )


class PretrainWatchSettings(WatchSettings):
    """Thresholds of the warnings, with those of pre-training, and what else is measured beside it."""

    locations: ClassVar = ("knn_data",)

    collapse_spread: float | None = Field(
        0.1,
        gt=0,
        lt=1,
        description="Warn when the targets' spread is below this (1: spread out, 0: collapsed); none: never.",
    )
    collapse_rank: float | None = Field(
        2.0,
        gt=1,
        description="Warn when the targets lie in fewer than this many directions (batches of 8 and more); none: never.",
    )
    dead_level: float | None = Field(
        0.05,
        gt=0,
        lt=1,
        description="Warn when a level's accuracy above chance is less than this share of the best level's; none: never.",
    )
    knn_every: int = Field(
        0,
        ge=0,
        description="Steps after which a logged line also has the 10-nearest-neighbour accuracy of the trunk's features "
        "on class folders (knn/p5 ...); 0: never.",
    )
    knn_data: str | None = Field(
        None, description="Pictures for that, in a folder for each class; none: those of --data."
    )
    knn_images: int = Field(1000, ge=20, description="How many of them are taken, at most.")
