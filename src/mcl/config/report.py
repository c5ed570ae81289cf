"""Settings of ``mcl report``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import CliPositionalArg

from mcl.config.base import Command


class ReportSettings(Command):
    """Show runs and studies as one HTML page that opens without a network."""

    runs: CliPositionalArg[list[Path]] = Field(
        description="Folders of mcl pretrain, finetune, evaluate and compare, in any mix, finished or not; differences in "
        "AP are taken to the first detector."
    )
    out: Path | None = Field(
        None, description="The page; none: report.html in the folder, or with several folders here."
    )
    title: str = Field("Report", min_length=1, description="Its heading.")
    resamples: int = Field(
        1000, ge=0, le=100_000, description="Draws of the test images that intervals of AP come from; 0: no intervals."
    )

    @field_validator("runs", mode="before")
    @classmethod
    def _one_is_a_list(cls, given: object) -> object:
        return [given] if isinstance(given, str | Path) else given

    @field_validator("runs")
    @classmethod
    def _some(cls, given: list[Path]) -> list[Path]:
        if not given:
            raise ValueError("give at least one folder")
        return given
