"""Settings of ``mcl export``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from mcl.config.base import Command

Format = Literal[
    "torchvision", "torchvision-resnet", "timm", "detectron2", "mmdetection", "safetensors", "onnx"
]
Parts = Literal["backbone", "backbone+pyramid", "backbone+pyramid+head"]


class ExportSettings(Command):
    """Write a pre-trained trunk (or a fine-tuned detector) in the form that another library loads, and check it."""

    trunk: CliPositionalArg[Path] = Field(
        description="Run folder of mcl pretrain or mcl finetune, or its trunk.safetensors or detector.safetensors."
    )
    to: Format = Field(
        description="torchvision: state dict of Mask/Faster R-CNN v2; torchvision-resnet: state dict of a ResNet; "
        "timm: folder for timm and the Hugging Face hub; detectron2: .pkl and YAML; mmdetection: .pth and config; "
        "safetensors: mcl's own; onnx: a fine-tuned detector."
    )
    out: Path = Field(description="File to write (timm: folder); what goes with it is written beside it.")
    parts: Parts | None = Field(None, description="Parts of the trunk to write; none: all that were trained.")
    content: Literal["trunk", "detector"] = Field(
        "trunk",
        alias="with",
        description="detector: all of a fine-tuned detector (torchvision; onnx always writes it).",
    )
    overwrite: bool = Field(False, description="Replace what is at out.")
