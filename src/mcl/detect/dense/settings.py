"""Settings of RetinaNet and FCOS, which predict at every cell of the pyramid."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from mcl.config.detector import NAME, DetectorSettings


class DenseSettings(DetectorSettings):
    """A detector that predicts at every cell of the pyramid."""

    levels: Literal["p2-p5", "p3-p7"] | None = Field(
        None,
        description="Pyramid levels it reads; none: p2-p5 (the trunk's own) below 512 px, else p3-p7 (as for COCO).",
    )
    towers_from_head: bool = Field(
        False,
        description="Start the convolutions of both towers from the pre-trained head's, where shapes agree.",
    )
    candidates: int = Field(1000, ge=10, description="Best predictions a level that go into NMS, testing.")

    def check_trunk(self, parts: str | None, given: bool) -> None:
        """Of a trunk's head these take the towers' convolutions only, if that.

        Raises:
            ValueError: as ``DetectorSettings``.
        """
        has_head = parts is None or "head" in parts
        if self.towers_from_head and not given:
            raise ValueError("--detector.towers_from_head needs a trunk: there is no head to start from")
        if self.towers_from_head and not has_head:
            raise ValueError(f"--detector.towers_from_head needs the head, which --parts {parts} leaves out")
        if given and parts is not None and has_head and not self.towers_from_head:
            raise ValueError(
                f"--parts {parts}: {self.title} has no box head; ask for backbone+pyramid, or give "
                "--detector.towers_from_head to start its towers from the head's convolutions"
            )


class RetinanetSettings(DenseSettings):
    """RetinaNet: anchors at every cell, focal loss."""

    title: ClassVar = "RetinaNet"

    name: Literal["retinanet"] = Field("retinanet", description=NAME)
    anchor_base: float | None = Field(
        None,
        gt=0,
        description="Anchor side at the first level in pixels, doubled per level; none: image_size / 8, within 4..32.",
    )
    anchors_per_octave: int = Field(3, ge=1, le=6, description="Anchor sizes a level.")
    aspect_ratios: list[float] = Field(
        [0.5, 1.0, 2.0], min_length=1, description="Height / width of the anchors."
    )


class FcosSettings(DenseSettings):
    """FCOS: no anchors; every cell near an object's centre predicts the way to its four sides."""

    title: ClassVar = "FCOS"

    name: Literal["fcos"] = Field("fcos", description=NAME)
    point_size: int | None = Field(
        None,
        ge=2,
        multiple_of=2,
        description="Size of a point at the first level in pixels, doubled per level: a point answers for boxes whose "
        "farthest side is 4 to 8 sizes away; none: a quarter of RetinaNet's anchors (8 for COCO).",
    )
    centre_radius: float = Field(
        1.5, gt=0, description="Cells around an object's centre that answer for it, in strides."
    )
    score_threshold: float = Field(
        0.2, ge=0, lt=1, description="Drop detections that score less (the root of class times centre-ness)."
    )
    nms_threshold: float = Field(
        0.6, gt=0, le=1, description="Drop a detection that overlaps a better one this much."
    )
