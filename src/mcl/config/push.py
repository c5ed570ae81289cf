"""Settings of ``mcl push``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import CliPositionalArg

from mcl.config.base import Command


class PushSettings(Command):
    """Put a backbone that mcl export wrote for timm on the Hugging Face hub."""

    folder: CliPositionalArg[Path] = Field(description="Folder that mcl export --to timm wrote.")
    to: str = Field(
        pattern=r"^[\w.-]+/[\w.-]+$", description="Repository on the hub: USER/NAME or ORGANISATION/NAME; made if it is not there."
    )
    private: bool = Field(False, description="Make a new repository private.")
    message: str = Field("Backbone pre-trained with mcl", min_length=1, description="What the commit says.")
