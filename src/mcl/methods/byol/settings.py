"""Settings of BYOL."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from mcl.config.method import About, MethodSettings, TrainedParts, method_name


class ByolSettings(MethodSettings):
    """BYOL: a predictor regresses the other view's embedding from a slowly moving network; no negatives."""

    about: ClassVar = About(
        "Each view's prediction is pulled to the other view's embedding in a momentum network, without negatives.",
        "Bootstrap Your Own Latent, arXiv 2006.07733",
        "loss equals a plain transcription of equations 2 and 3 in float64",
    )

    name: Literal["byol"] = method_name("byol")
    parts: TrainedParts = Field("backbone", description="What is trained; with pyramid and head, a loss for each of P2..P5.")
    hidden: int = Field(4096, ge=8, description="Width inside projector and predictor.")
    embedding: int = Field(256, ge=8, description="Width of the embedding.")
    momentum: float = Field(
        0.996, ge=0, le=1, description="Momentum of the target at the start; goes to 1 by a cosine."
    )
