"""Settings of DINO."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from mcl.config.method import About, MethodSettings, TrainedParts, method_name

Share = tuple[float, float]


class DinoSettings(MethodSettings):
    """DINO: every crop predicts what a slowly moving teacher says of the large crops; centring and sharpening, no negatives."""

    about: ClassVar = About(
        "Every crop predicts the distribution that a momentum teacher gives the image's other large crops.",
        "Emerging Properties in Self-Supervised Vision Transformers, arXiv 2104.14294",
        "loss, centre and temperatures equal a plain transcription of equation 3 and algorithm 1 in float64",
    )

    name: Literal["dino"] = method_name("dino")
    parts: TrainedParts = Field("backbone", description="What is trained; with pyramid and head, a loss for each of P2..P5.")
    hidden: int = Field(2048, ge=8, description="Width inside the projector.")
    bottleneck: int = Field(256, ge=8, description="Width of what is normalised before the last layer.")
    prototypes: int = Field(65536, ge=2, description="Outputs of the last layer; small sets want fewer, such as 1024.")
    head_norm: bool | None = Field(
        None, description="BatchNorm inside the projector; none: on networks that are no plain transformers, as the authors."
    )
    student_temperature: float = Field(0.1, gt=0, description="Temperature of the online network.")
    teacher_temperature: float = Field(0.07, gt=0, description="Temperature of the teacher after its warm-up.")
    teacher_start: float = Field(0.04, gt=0, description="Temperature of the teacher at the start; rises linearly.")
    teacher_warmup: float = Field(0.3, ge=0, le=1, description="Share of the steps in which it rises (the paper's 30 of 100 epochs).")
    center_momentum: float = Field(
        0.9, ge=0, lt=1, description="Momentum of the centre of the teacher's outputs; small batches want more, such as 0.99."
    )
    momentum: float = Field(
        0.996, ge=0, le=1, description="Momentum of the teacher at the start, to 1 by a cosine; small batches want more."
    )
    freeze: float = Field(0.01, ge=0, le=1, description="Share of the steps in which the last layer stays as it is (1 of 100 epochs).")
    large_crops: Share = Field((0.4, 1.0), description="Share of the image's area that each of the 2 large crops takes.")
    small: int = Field(8, ge=0, description="Small crops of an image; the teacher does not see them.")
    small_crops: Share = Field((0.05, 0.4), description="Share of the image's area that a small crop takes.")
    small_size: int | None = Field(
        None, ge=32, multiple_of=32,
        description="Side of small crops in pixels; none: 96 of 224, to the nearest multiple of 32.",
    )  # fmt: skip
    layout: Literal["crops", "montage"] = Field(
        "crops",
        description="crops: small crops are images of their own; montage: they are the tiles of canvases of the full size.",
    )
    scale: Literal[2, 4] = Field(2, description="Tiles per side of layout montage; a small crop is image_size / scale wide.")
    attention: Literal["canvas", "tile"] = Field(
        "tile",
        description="Of a plain transformer on montages: tile: cells attend to their own tile alone, and each tile has a class "
        "token; canvas: to all tiles, and a tile is the mean of its cells.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> DinoSettings:
        if self.layout == "montage" and self.small_size is not None:
            raise ValueError("layout=montage: tiles are image_size / scale wide; leave small_size away")
        if self.layout == "montage" and not self.small:
            raise ValueError("layout=montage: without small crops there are no tiles; use small=1 or more")
        return self
