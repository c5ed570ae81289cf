"""Settings of ``mcl doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from mcl.config.bench import BenchSettings


class DoctorSettings(BenchSettings):
    """Look at this machine and tell how a pre-training recipe would run on it. Writes nothing but --json."""

    common: ClassVar = (*BenchSettings.common, "data", "images")

    data: Path | None = Field(
        None,
        description="Images to measure the loader on (as for mcl pretrain); none: generated JPEGs of 500x375.",
    )
    data_root: Path | None = Field(
        None, description="Folder that names of a list or JSON start from; default: the file's own."
    )
    images: int = Field(96, ge=8, description="How many images the loader is measured on.")
