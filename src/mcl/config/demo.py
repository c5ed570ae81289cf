"""Settings of ``mcl demo``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from mcl.config.base import Command


class DemoSettings(Command):
    """The whole path on the embedded data set: pre-train, fine-tune from the trunk and from scratch, compare."""

    out: Path = Field(
        Path("runs/demo"), description="Folder for the data set and the three runs; continued if it is there."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of everything random.")
    pretrain_steps: int = Field(140, ge=1, description="Steps of pre-training.")
    finetune_steps: int = Field(1300, ge=1, description="Steps of each fine-tuning.")
    unlabeled_images: int = Field(
        2000, ge=64, description="Images to pre-train on: half of one object, half scenes."
    )
    train_scenes: int = Field(1200, ge=8, description="Scenes with boxes and masks to fine-tune on.")
    test_scenes: int = Field(200, ge=8, description="Scenes to measure AP on.")
    image_size: int = Field(96, ge=64, multiple_of=32, description="Side of all images in pixels.")
    threads: int | None = Field(None, ge=1, description="CPU threads of torch; none: as torch chooses.")
