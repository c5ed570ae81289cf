"""Settings of MoCo v2."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from mcl.config.method import About, MethodSettings, TrainedParts, method_name


class MoCoV2Settings(MethodSettings):
    """MoCo v2: a query against its key from a slowly moving network and a queue of earlier keys."""

    about: ClassVar = About(
        "A view's query is pulled to the other view's key, away from a queue of keys of earlier images.",
        "Improved Baselines with Momentum Contrastive Learning, arXiv 2003.04297",
        "loss and queue equal a plain transcription of MoCo's equation 1 and algorithm 1 in float64",
    )

    name: Literal["mocov2"] = method_name("mocov2")
    parts: TrainedParts = Field("backbone", description="What is trained; with pyramid and head, a loss for each of P2..P5.")
    hidden: int | None = Field(None, ge=8, description="Width inside the projection; none: the features' own, as the paper.")
    embedding: int = Field(128, ge=8, description="Width of the embedding.")
    queue: int = Field(65536, ge=2, description="Keys of earlier images that are negatives.")
    temperature: float = Field(0.2, gt=0, description="Temperature of the contrastive loss.")
    momentum: float = Field(0.999, ge=0, le=1, description="Momentum of the target; stays as it is.")
