"""Settings of DenseCL."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from mcl.config.method import About, MethodSettings, TrainedParts, method_name


class DenseClSettings(MethodSettings):
    """DenseCL: MoCo v2, and the same for every cell of the map with its most similar cell of the other view."""

    about: ClassVar = About(
        "MoCo v2, and beside it every cell of a view's map is pulled to the most similar cell of the other view.",
        "Dense Contrastive Learning for Self-Supervised Visual Pre-Training, arXiv 2011.09157",
        "loss equals a plain transcription of equations 1 to 4 in float64",
    )

    name: Literal["densecl"] = method_name("densecl")
    parts: TrainedParts = Field("backbone", description="What is trained; with pyramid and head, a loss for each of P2..P5.")
    hidden: int | None = Field(None, ge=8, description="Width inside the projections; none: the features' own, as the paper.")
    embedding: int = Field(128, ge=8, description="Width of the embeddings.")
    queue: int = Field(65536, ge=2, description="Keys of earlier images that are negatives, for images and for cells.")
    temperature: float = Field(0.2, gt=0, description="Temperature of both contrastive losses.")
    dense_weight: float = Field(0.5, ge=0, le=1, description="Share of the cells' loss; the rest is the images'.")
    momentum: float = Field(0.999, ge=0, le=1, description="Momentum of the target; stays as it is.")
