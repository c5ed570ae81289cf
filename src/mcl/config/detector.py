"""What the settings of every detector have in common; each detector's own lie in its folder."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from mcl.config.base import Section

NAME = (
    "auto, mask-rcnn, faster-rcnn, retinanet or fcos; auto: Mask R-CNN if at least half of the objects have a "
    "mask (--masks), else Faster R-CNN. Which settings there are follows from it."
)


class DetectorSettings(Section):
    """A detector. Sizes left to ``none`` follow image_size and the trunk."""

    #: how people call it
    title: ClassVar[str]
    #: detectors that share settings, so that a recipe for one serves the others
    family: ClassVar[str | None] = None
    #: whether it draws masks, and is trained on them
    masks: ClassVar[bool] = False
    #: whether backbone, pyramid and head can stay as they are while the rest trains
    freezes_trunk: ClassVar[bool] = False

    name: str = Field("auto", description=NAME)
    score_threshold: float = Field(0.05, ge=0, lt=1, description="Drop detections that score less.")
    nms_threshold: float = Field(
        0.5, gt=0, le=1, description="Drop a detection that overlaps a better one this much."
    )
    detections_per_image: int = Field(100, ge=1, description="At most this many detections an image.")

    def fitted(self, masks: bool, window: int) -> DetectorSettings:
        """These settings with what follows from annotations and trunk.

        Args:
            masks: whether there are masks to learn from.
            window: side in cells of the windows that the trunk's head was pre-trained on.

        Raises:
            ValueError: this detector cannot be trained on such annotations.
        """
        return self

    def check_trunk(self, parts: str | None, given: bool) -> None:
        """Whether this detector has a place for what is asked for of a trunk.

        Args:
            parts: that are asked for; None: what was trained.
            given: whether there is a trunk to load from.

        Raises:
            ValueError: it has none.
        """
