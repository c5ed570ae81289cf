"""Settings of ``mcl predict``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from mcl.config.base import Command
from mcl.config.finetune import Pixels
from mcl.config.optim import Device


class PredictSettings(Command):
    """Find objects on images or in a video with a fine-tuned detector."""

    model: Path = Field(
        description="Run folder of mcl finetune, its detector.safetensors, or an .onnx file of mcl export."
    )
    images: str = Field(
        description="Folder of images (searched recursively), image, list (.txt), COCO .json, .tar shards, or a video."
    )
    out: Path = Field(description="Folder to write predictions and pictures to.")
    overwrite: bool = Field(False, description="Delete what is in out.")
    score_threshold: float = Field(0.3, ge=0, lt=1, description="Leave out detections that score less.")
    pictures: bool = Field(True, description="Also draw what was found on every image (a video: into a video).")
    batch: int = Field(8, ge=1, description="Images a step.")
    max_pixels: Pixels = 178_956_970
    workers: int = Field(1, ge=0, le=256, description="Processes that decode images; 0: the main process.")
    device: Device = Field(
        "auto", description="Where to run; auto takes a GPU if there is one. (An .onnx file runs on the CPU.)"
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; none: as torch and onnxruntime choose.")
