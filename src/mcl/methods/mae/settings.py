"""Settings of MAE."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from mcl.config.method import About, MethodSettings, method_name

SCALES = [1, 2, 4, 8]


class MaeSettings(MethodSettings):
    """MAE: a plain transformer sees a quarter of an image's patches, and a light decoder reconstructs the others' pixels."""

    about: ClassVar = About(
        "A transformer sees a quarter of the patches, of images or of a montage's tiles; a decoder reconstructs the others.",
        "Masked Autoencoders Are Scalable Vision Learners, arXiv 2111.06377",
        "loss and its target equal a plain transcription of section 3 (normalised pixels) in float64",
    )

    name: Literal["mae"] = method_name("mae")
    mask_ratio: float = Field(0.75, gt=0, lt=1, description="Share of the patches that are masked: of an image, or of each tile.")
    normalise: bool = Field(True, description="The target is each patch's pixels less their mean, over their deviation.")
    decoder_width: int = Field(512, ge=16, multiple_of=4, description="Width of the decoder.")
    decoder_depth: int = Field(8, ge=1, description="Blocks of the decoder.")
    decoder_heads: int = Field(16, ge=1, description="Attention heads of the decoder; they divide its width.")
    layout: Literal["image", "montage"] = Field(
        "image", description="image: full-size images; montage: also canvases of tiles, masked and reconstructed tile by tile."
    )
    scales: list[int] = Field(
        [1, 2, 4], description="Tiles per side of layout montage's canvases; 1 is the full-size image."
    )
    attention: Literal["canvas", "tile"] = Field(
        "canvas", description="On montages: canvas: visible patches attend to those of all tiles; tile: to their own tile's alone."
    )
    mcl_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of MCL's loss beside it: each tile's visible patches through pyramid, head and predictor, pulled to "
        "the other view's full-size image, of which a momentum network sees all; trains pyramid and head too.",
    )
    temperature: float = Field(0.2, gt=0, description="Temperature of MCL's loss.")
    momentum: float = Field(
        0.99, ge=0, le=1, description="Momentum of the target of MCL's loss at the start; goes to 1 by a cosine."
    )

    @property
    def used_scales(self) -> tuple[int, ...]:
        """Tiles per side of everything that is masked."""
        return tuple(self.scales) if self.layout == "montage" else (1,)

    @model_validator(mode="after")
    def _consistent(self) -> MaeSettings:
        if not self.scales or self.scales != SCALES[: len(self.scales)]:
            raise ValueError(f"scales must be the first one to four of {SCALES}, got {self.scales}")
        if self.decoder_width % self.decoder_heads:
            raise ValueError(f"decoder_heads: {self.decoder_heads} heads do not divide a decoder of width {self.decoder_width}")
        return self
