"""Settings of MoCo v3."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from mcl.config.method import About, MethodSettings, TrainedParts, method_name


class MoCoV3Settings(MethodSettings):
    """MoCo v3: a view's prediction against the other view's keys of the whole batch, from a slowly moving network; no queue."""

    about: ClassVar = About(
        "Each view's prediction is pulled to the other view's key, away from the keys of the batch's other images.",
        "An Empirical Study of Training Self-Supervised Vision Transformers, arXiv 2104.02057",
        "loss equals a plain transcription of algorithm 1 in float64",
    )

    name: Literal["mocov3"] = method_name("mocov3")
    parts: TrainedParts = Field("backbone", description="What is trained; with pyramid and head, a loss for each of P2..P5.")
    hidden: int = Field(4096, ge=8, description="Width inside projector and predictor.")
    embedding: int = Field(256, ge=8, description="Width of the embedding.")
    layers: int | None = Field(
        None, ge=2, le=4, description="Linear layers of the projector; none: 3 on plain transformers, else 2, as the authors."
    )
    temperature: float = Field(0.2, gt=0, description="Temperature of the contrastive loss (the authors' 1.0 on ResNets).")
    momentum: float = Field(
        0.99, ge=0, le=1, description="Momentum of the target at the start; goes to 1 by a cosine."
    )
