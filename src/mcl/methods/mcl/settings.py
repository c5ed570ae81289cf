"""Settings of MCL."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from mcl.config.method import About, MethodSettings, method_name

SCALES = [1, 2, 4, 8]


class MclSettings(MethodSettings):
    """Multi-level contrastive learning."""

    about: ClassVar = About(
        "Montages of shrunk images; each tile is pulled to the full-size image, on the pyramid level that fits it.",
        "Multi-Level Contrastive Learning for Dense Prediction, arXiv 2304.02010",
        "montages, targets, losses and three steps equal the authors' code to 1e-9 in float64",
    )

    name: Literal["mcl"] = method_name("mcl")

    scales: list[int] = Field(
        [1, 2, 4, 8], description="Tiles per side of the montages; 1 is the full-size image."
    )
    repeats: dict[int, Annotated[int, Field(ge=1)]] = Field(
        {8: 2}, description="scale: how often a batch's image is a tile of it (default once)."
    )
    montages: dict[int, Annotated[int, Field(ge=1)]] | None = Field(
        None, description="scale: number of montages a process, whatever the batch; before repeats."
    )
    level_weights: list[float] | None = Field(
        None, description="Loss weight of each scale; none: 1/2, 1/4, 1/8, 1/8 (halved, the last twice)."
    )
    temperature: float = Field(1.0, gt=0, description="Temperature of the contrastive loss.")
    assignment: Literal["top", "same", "adjacent", "all"] = Field(
        "top", description="Which target scales a tile is pulled to."
    )
    layout: Literal["montage", "batch"] = Field(
        "montage",
        description="montage: tiles side by side on canvases; batch: each tile an image of its own, as in multi-crop.",
    )
    encode: Literal["matched", "exhaustive"] = Field(
        "matched",
        description="matched: compute only what enters the loss; exhaustive: every level of every canvas (the authors' way).",
    )
    target_canvases: Literal["all", "full"] = Field(
        "all",
        description="What the target network sees: all canvases (the authors' BatchNorm statistics) or full-size images only.",
    )
    predictor: bool = Field(True, description="Predictors on the online side, one a level.")
    momentum: float = Field(
        0.99, ge=0, le=1, description="Momentum of the target at the start; goes to 1 by a cosine."
    )

    @model_validator(mode="after")
    def _consistent(self) -> MclSettings:
        if not self.scales or self.scales != SCALES[: len(self.scales)]:
            raise ValueError(f"scales must be the first one to four of {SCALES}, got {self.scales}")
        for name, counts in (("repeats", self.repeats), ("montages", self.montages or {})):
            if unknown := set(counts) - set(SCALES[1:]):
                raise ValueError(f"{name}: no scale {unknown.pop()}; montages have scale 2, 4 or 8")
        if self.level_weights is not None and len(self.level_weights) != len(self.scales):
            raise ValueError(f"level_weights needs one number for each of {len(self.scales)} scales")
        if self.target_canvases == "full" and self.assignment != "top":
            raise ValueError(
                f"target_canvases=full gives no targets for assignment={self.assignment}; use all, or assignment=top"
            )
        if self.layout == "batch" and self.encode == "exhaustive":
            raise ValueError("layout=batch has no canvases to encode exhaustively; use encode=matched")
        if self.layout == "batch" and self.target_canvases == "full":
            raise ValueError("layout=batch: the target network sees what the assignment asks for; use target_canvases=all")
        if self.encode == "exhaustive" and self.target_canvases == "full":
            raise ValueError("encode=exhaustive encodes all canvases by definition; use target_canvases=all")
        return self
