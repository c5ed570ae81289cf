"""Settings of supervised pre-training."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from mcl.config.method import About, MethodSettings, TrainedParts, method_name


class SupervisedSettings(MethodSettings):
    """Supervised: each image is told apart by the class folder that it lies in; one view, cross-entropy."""

    about: ClassVar = About(
        "A linear classifier on the mean of each map learns the class folder of an image: what labels are worth.",
        "Deep Residual Learning for Image Recognition, arXiv 1512.03385",
        "loss equals a plain transcription of the softmax cross-entropy in float64",
    )

    name: Literal["supervised"] = method_name("supervised")
    parts: TrainedParts = Field("backbone", description="What is trained; with pyramid and head, a loss for each of P2..P5.")
    classes: list[str] = Field(
        [], description="Class folders in the order of their labels; none: all that --data has, sorted."
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of a label that is spread over all classes.")
    crop_scale: tuple[float, float] = Field(
        (0.08, 1.0), description="Share of the image's area that the crop takes, as is usual for classifiers."
    )
