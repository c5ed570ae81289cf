"""Settings of ``mcl compare``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import CliPositionalArg

from mcl.config.base import Command


class CompareSettings(Command):
    """Run a study: many pre-trainings and fine-tunings from one YAML, with equal budgets and intervals."""

    study: CliPositionalArg[Path] = Field(description="The study's YAML (docs/compare.md).")
    out: Path | None = Field(
        None, description="Folder for results, figures and runs; none: runs/studies/NAME of the YAML."
    )
    runs: Path | None = Field(
        None, description="Folder of the run folders, which studies may share; none: runs in out."
    )
    dry_run: bool = Field(False, description="Only print cells, FLOPs and expected hours; writes nothing.")
    trial_steps: int = Field(
        5,
        ge=0,
        description="dry_run: steps of one pre-training and one fine-tuning to estimate hours from where nothing has "
        "run yet; 0: no trial.",
    )
    parallel: int = Field(1, ge=1, le=64, description="Trainings at a time, each a process of its own.")
    threads: int = Field(1, ge=1, le=256, description="CPU threads of each.")
    figures: bool = Field(True, description="Draw curves as PNG and SVG.")
    json_file: Path | None = Field(None, alias="json", description="Another file for the results, e.g. in benchmarks/.")
