"""Settings of SwAV."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from mcl.config.method import About, MethodSettings, TrainedParts, method_name

Share = tuple[float, float]


class SwavSettings(MethodSettings):
    """SwAV: each crop predicts to which prototypes the other crops of its image were assigned; no negatives, no target."""

    about: ClassVar = About(
        "Each crop predicts which prototypes the image's large crops are assigned to, evenly over all prototypes.",
        "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments, arXiv 2006.09882",
        "loss and codes equal a plain transcription of equations 2 and 6 and of appendix A's Sinkhorn in float64",
    )

    name: Literal["swav"] = method_name("swav")
    parts: TrainedParts = Field("backbone", description="What is trained; with pyramid and head, a loss for each of P2..P5.")
    hidden: int = Field(2048, ge=8, description="Width inside the projector.")
    embedding: int = Field(128, ge=8, description="Width of the embedding.")
    prototypes: int = Field(3000, ge=2, description="Clusters that images are assigned to.")
    temperature: float = Field(0.1, gt=0, description="Temperature of the predictions.")
    epsilon: float = Field(0.05, gt=0, description="How soft codes are: the weight of entropy in the assignment.")
    iterations: int = Field(3, ge=1, description="Rounds of Sinkhorn-Knopp that even out the assignment.")
    large_crops: Share = Field((0.14, 1.0), description="Share of the image's area that each of the 2 large crops takes.")
    small: int = Field(6, ge=0, description="Small crops of an image; they predict, and are predicted by none.")
    small_crops: Share = Field((0.05, 0.14), description="Share of the image's area that a small crop takes.")
    small_size: int | None = Field(
        None, ge=32, multiple_of=32,
        description="Side of small crops in pixels; none: 96 of 224, to the nearest multiple of 32.",
    )  # fmt: skip
    queue: int = Field(
        3840, ge=0, description="Embeddings of earlier images that are assigned too, for small batches; 0: none."
    )
    queue_after: float = Field(0.075, ge=0, le=1, description="Share of the steps after which the queue begins to fill.")
    freeze: float = Field(0.005, ge=0, le=1, description="Share of the steps in which prototypes stay as they are.")
