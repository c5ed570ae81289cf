"""Settings of SoCo."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mcl.config.method import About, MethodSettings, TrainedParts, method_name

Share = Annotated[float, Field(ge=0, le=1)]


class SocoSettings(MethodSettings):
    """SoCo: objects found by selective search, each read from the pyramid level of its size, are alike in three views."""

    about: ClassVar = About(
        "Objects that selective search proposes are cut out of the pyramid level of their size in three views; BYOL's loss.",
        "Aligning Pretraining for Detection via Object-Level Contrastive Learning, arXiv 2106.02637",
        "loss equals a plain transcription of equations 3 to 6 in float64, RoIAlign and levels torchvision's MultiScaleRoIAlign",
    )

    name: Literal["soco"] = method_name("soco")
    parts: TrainedParts = Field(
        "backbone+pyramid+head", description="What is trained; without pyramid and head, objects are cut out of C5."
    )
    hidden: int = Field(4096, ge=8, description="Width inside projector and predictor.")
    embedding: int = Field(256, ge=8, description="Width of the embedding.")
    objects: int = Field(4, ge=1, description="Objects of an image that a step looks at, drawn with replacement.")
    crop_scale: tuple[float, float] = Field(
        (0.5, 1.0), description="Share of the image's area that views 2 and 3 take; view 1 is the whole image."
    )
    jitter: Share = Field(0.5, description="Probability that an object's box is jittered, in each view for itself.")
    jitter_ratio: Share = Field(
        0.1, description="Its place, width and height change by up to this share of its width and height."
    )
    momentum: float = Field(0.99, ge=0, le=1, description="Momentum of the target at the start; goes to 1 by a cosine.")
    proposal_size: tuple[Share, Share] = Field(
        (0.3, 0.8), description="Proposals kept: root of their area, as a share of the root of the image's."
    )
    proposal_ratio: float = Field(3.0, ge=1, description="Proposals kept: the longer side is at most this many times the shorter.")
    proposal_scale: int = Field(
        300, ge=1, description="Scale of the graph cut that selective search starts from: the larger, the fewer proposals."
    )
    proposal_side: int = Field(
        256, ge=32, le=4096, description="Pictures are shrunk to this longer side, in pixels, before they are searched."
    )
