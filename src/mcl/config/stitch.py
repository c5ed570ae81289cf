"""Settings of dynamic scale training in ``mcl finetune``."""

from __future__ import annotations

from pydantic import Field

from mcl.config.base import Section


class StitchSettings(Section):
    """Dynamic scale training (Stitcher, Chen et al. 2020): more small objects where they count for little in the loss."""

    below: float | None = Field(
        None,
        gt=0,
        le=1,
        description="When small objects' share of a step's box loss is below this, the next step trains on images stitched "
        "from four of half the size (the paper: 0.1); none: never.",
    )
    small: float | None = Field(
        None,
        gt=0,
        description="A box of a smaller area than this squared, in pixels, is small; none: image_size / 8 within 4..32.",
    )
