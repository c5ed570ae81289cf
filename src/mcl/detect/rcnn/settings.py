"""Settings of Faster R-CNN and Mask R-CNN."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from mcl.config.detector import NAME, DetectorSettings


class FasterRcnnSettings(DetectorSettings):
    """Faster R-CNN: proposals, then a box head on the window of each."""

    title: ClassVar = "Faster R-CNN"
    family: ClassVar = "rcnn"
    freezes_trunk: ClassVar = True

    name: Literal["faster-rcnn"] = Field("faster-rcnn", description=NAME)
    anchor_base: float | None = Field(
        None,
        gt=0,
        description="Anchor side at P2 in pixels, doubled per level; none: image_size / 8, within 4..32.",
    )
    anchors_per_octave: int | None = Field(
        None, ge=1, le=6, description="Anchor sizes a level; none: 3 below 512 px, else 1 (as for COCO)."
    )
    aspect_ratios: list[float] = Field(
        [0.5, 1.0, 2.0], min_length=1, description="Height / width of the anchors."
    )
    roi_scale: float | None = Field(
        None, gt=0, description="Box side in pixels that reads P4; none: image_size / 2, at most 224."
    )
    roi_size: int | None = Field(
        None,
        ge=1,
        le=28,
        description="Cells of a box's window; none: the trunk's pre-training window, 7 without one.",
    )
    fc_channels: int = Field(1024, ge=8, le=4096, description="Width of the box head's linear layer.")
    proposals_train: int = Field(500, ge=10, description="Proposals an image after NMS, training.")
    proposals_test: int = Field(200, ge=10, description="Proposals an image after NMS, testing.")
    pre_nms_train: int = Field(1000, ge=10, description="Proposals a level before NMS, training.")
    pre_nms_test: int = Field(500, ge=10, description="Proposals a level before NMS, testing.")
    anchors_per_image: int = Field(256, ge=8, description="Anchors an image in the proposal loss.")
    boxes_per_image: int = Field(128, ge=8, description="Boxes an image in the box loss (COCO: 512).")

    def fitted(self, masks: bool, window: int) -> FasterRcnnSettings:
        """With the window of the boxes."""
        return self.model_copy(update={"roi_size": self.roi_size or window})


class MaskRcnnSettings(FasterRcnnSettings):
    """Mask R-CNN: Faster R-CNN with a mask head."""

    title: ClassVar = "Mask R-CNN"
    masks: ClassVar = True

    name: Literal["mask-rcnn"] = Field("mask-rcnn", description=NAME)
    mask_roi_size: int | None = Field(
        None, ge=2, le=56, description="Cells of a mask's window; none: 2 * roi_size, within 8..14."
    )

    def fitted(self, masks: bool, window: int) -> FasterRcnnSettings:
        """As ``FasterRcnnSettings``.

        Raises:
            ValueError: there are no masks to learn from.
        """
        if not masks:
            raise ValueError("needs objects with a segmentation; faster-rcnn does without")
        return super().fitted(masks, window)


class AutoSettings(MaskRcnnSettings):
    """Mask R-CNN if there are masks to learn from, else Faster R-CNN."""

    title: ClassVar = "R-CNN"

    name: Literal["auto"] = Field("auto", description=NAME)

    def fitted(self, masks: bool, window: int) -> FasterRcnnSettings:
        """The settings of one of the two."""
        kind = MaskRcnnSettings if masks else FasterRcnnSettings
        given = {name: value for name, value in self.model_dump().items() if name in kind.model_fields}
        return kind(**{**given, "name": kind.model_fields["name"].default}).fitted(masks, window)
