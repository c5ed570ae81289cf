"""Settings of ``mcl export``."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from pydantic_settings import CliPositionalArg

from mcl.config.base import Command
from mcl.config.parts import Parts

# The table of formats lies in a room above this one, so it is named by a string, as the registries of choices are.
_TABLE = importlib.import_module("mcl.interop.formats")


class ExportSettings(Command):
    """Write a pre-trained trunk (or a fine-tuned detector) in the form that another library loads, and check it."""

    trunk: CliPositionalArg[Path] = Field(
        description="Run folder of mcl pretrain or mcl finetune, or its trunk.safetensors or detector.safetensors."
    )
    to: Literal[tuple(_TABLE.FORMATS)] = Field(description=_TABLE.help_text())
    out: Path = Field(description="File to write (timm: folder); what goes with it is written beside it.")
    parts: Parts | None = Field(None, description="Parts of the trunk to write; none: all that were trained.")
    content: Literal["trunk", "detector"] = Field(
        "trunk",
        alias="with",
        description="detector: all of a fine-tuned detector (torchvision; onnx always writes it).",
    )
    overwrite: bool = Field(False, description="Replace what is at out.")

    @property
    def format(self) -> Any:
        """The entry of the table (``mcl.interop.formats.Format``)."""
        return _TABLE.FORMATS[self.to]

    @property
    def whole_detector(self) -> bool:
        """Whether a detector is written, not a trunk."""
        return self.content == "detector" or self.format.trunk is None

    @model_validator(mode="after")
    def _possible(self) -> ExportSettings:
        if self.whole_detector and not self.format.detector:
            able = _TABLE.to_flags([entry.name for entry in _TABLE.holding("detector")], "and")
            raise ValueError(f"--with detector: only {able} hold a whole detector, not {self.to}")
        if self.parts and self.whole_detector:
            raise ValueError(f"--parts {self.parts}: a detector is written whole; leave --parts away")
        if self.parts and not self.format.parts.startswith(self.parts):
            raise ValueError(
                f"--parts {self.parts}: --to {self.to} holds the {self.format.parts} only; leave --parts away"
            )
        ending = self.format.ending
        if not self.out.name.endswith(ending):
            better = self.out.with_suffix(ending) if self.out.name else self.out / f"weights{ending}"
            raise ValueError(f"--out {self.out}: {self.to} reads this form from {ending} files only; give --out {better}")
        return self
