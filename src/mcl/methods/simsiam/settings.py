"""Settings of SimSiam."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from mcl.config.method import About, MethodSettings, TrainedParts, method_name


class SimSiamSettings(MethodSettings):
    """SimSiam: each view's prediction is pulled to the other view's embedding; no target network, no negatives."""

    about: ClassVar = About(
        "Each view's prediction is pulled to the other view's embedding, which gets no gradient; no target network.",
        "Exploring Simple Siamese Representation Learning, arXiv 2011.10566",
        "loss equals a plain transcription of algorithm 1 in float64",
    )

    name: Literal["simsiam"] = method_name("simsiam")
    parts: TrainedParts = Field("backbone", description="What is trained; with pyramid and head, a loss for each of P2..P5.")
    hidden: int = Field(2048, ge=8, description="Width inside the projector.")
    embedding: int = Field(2048, ge=8, description="Width of the embedding.")
    bottleneck: int = Field(512, ge=8, description="Width inside the predictor.")
