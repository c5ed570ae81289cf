"""Settings of DetCon_B."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from mcl.config.method import About, MethodSettings, TrainedParts, method_name


class DetConBSettings(MethodSettings):
    """DetCon_B: segments of an image, found without labels, are told apart from all others in a momentum network's view."""

    about: ClassVar = About(
        "Features pooled over an image's segments predict those of the same segments in the other view, away from all others.",
        "Efficient Visual Pretraining with Contrastive Detection, arXiv 2103.10957",
        "loss equals a plain transcription of equation 3 and lightly's DetConBLoss in float64",
    )

    name: Literal["detconb"] = method_name("detconb")
    parts: TrainedParts = Field("backbone", description="What is trained; with pyramid and head, a loss for each of P2..P5.")
    hidden: int = Field(4096, ge=8, description="Width inside projector and predictor.")
    embedding: int = Field(256, ge=8, description="Width of the embedding.")
    temperature: float = Field(0.1, gt=0, description="Temperature of the contrastive loss.")
    masks: int = Field(16, ge=1, description="Segments drawn of each view, with replacement.")
    momentum: float = Field(
        0.996, ge=0, le=1, description="Momentum of the target at the start; goes to 1 by a cosine."
    )
    segment_scale: float = Field(
        1000.0, gt=0, description="Felzenszwalb's scale for a picture of 500x375 pixels; in proportion to the area for others."
    )
    segment_min: float = Field(
        1000.0, ge=1, description="Smallest segment in pixels of a picture of 500x375; in proportion to the area for others."
    )
    segment_side: int = Field(
        256, ge=32, le=4096, description="Pictures are shrunk to this longer side, in pixels, before they are segmented."
    )
