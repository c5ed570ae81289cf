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
    loss: Literal["infonce", "byol", "simsiam", "vicreg"] = Field(
        "infonce",
        description="infonce: against the batch's other targets; byol: without negatives; simsiam, vicreg: without "
        "a target network either.",
    )
    temperature: float = Field(1.0, gt=0, description="Temperature of loss infonce.")
    queue: int = Field(
        0, ge=0, description="Targets of earlier batches that are negatives too, for small batches; 0: none."
    )
    labels: bool = Field(
        False, description="Tiles of all images in one folder are positives (supervised: a folder for each class)."
    )
    vicreg_weights: tuple[float, float, float] = Field(
        (25.0, 25.0, 1.0), description="Weights of invariance, variance and covariance in loss vicreg."
    )
    dense_weight: float = Field(
        0.0, ge=0, description="Weight of a second loss: a tile's cells against the full-size target's at the same place."
    )
    regions_weight: float = Field(
        0.0, ge=0,
        description="Weight of a third loss: regions that selective search finds in full-size images are proposed and "
        "framed, as a detector learns annotated objects. Searched once, before training.",
    )  # fmt: skip
    regions: int = Field(4, ge=1, le=64, description="Regions of an image: those that look most like objects.")
    assignment: Literal["top", "same", "adjacent", "all"] = Field(
        "top", description="Which target scales a tile is pulled to."
    )
    layout: Literal["montage", "batch", "scattered"] = Field(
        "montage",
        description="montage: tiles side by side on canvases; batch: each tile an image of its own, as in multi-crop; "
        "scattered: tiles of irregular sizes and places, laid on other images with soft edges.",
    )
    attention: Literal["canvas", "tile"] = Field(
        "canvas",
        description="Of a plain transformer on montages: canvas: cells attend to all tiles; tile: to their own tile alone.",
    )
    localise: bool = Field(
        False, description="Also learn where scattered tiles lie: proposals, and boxes from boxes that are slightly off."
    )
    localise_weight: float = Field(1.0, gt=0, description="Weight of what localise adds to the loss.")
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

    @property
    def has_target(self) -> bool:
        """Whether the loss needs a target network."""
        return self.loss in ("infonce", "byol")

    @model_validator(mode="after")
    def _consistent(self) -> MclSettings:
        if not self.scales or self.scales != SCALES[: len(self.scales)]:
            raise ValueError(f"scales must be the first one to four of {SCALES}, got {self.scales}")
        for name, counts in (("repeats", self.repeats), ("montages", self.montages or {})):
            if unknown := set(counts) - set(SCALES[1:]):
                raise ValueError(f"{name}: no scale {unknown.pop()}; montages have scale 2, 4 or 8")
        if self.level_weights is not None and len(self.level_weights) != len(self.scales):
            raise ValueError(f"level_weights needs one number for each of {len(self.scales)} scales")
        if refused := next((why for wrong, why in self._refusals() if wrong), None):
            raise ValueError(refused)
        return self

    def _refusals(self) -> list[tuple[bool, str]]:
        """(whether it is asked for, what to do instead) of everything that does not go together."""
        loss, batch, full = self.loss, self.layout == "batch", self.target_canvases == "full"
        exhaustive = self.encode == "exhaustive"
        return [
            (
                full and self.assignment != "top",
                f"target_canvases=full gives no targets for assignment={self.assignment}; use all, or assignment=top",
            ),
            (
                self.localise and (self.layout != "scattered" or self.scales == [1]),
                "localise: tiles of a grid always lie in the same places; use layout=scattered and more scales than 1",
            ),
            (
                self.localise and not self.has_target,
                f"localise: not with loss={loss}; use loss=infonce or byol, or localise=false",
            ),
            (
                self.layout == "scattered" and exhaustive,
                "layout=scattered: encode=exhaustive reads windows of a grid; use encode=matched",
            ),
            (
                self.dense_weight > 0 and not self.has_target,
                f"dense_weight: loss={loss} has no target network; use loss=infonce or byol, or dense_weight=0",
            ),
            (
                self.dense_weight > 0 and (exhaustive or self.layout == "scattered"),
                "dense_weight: needs encode=matched, and layout=montage or batch; or use dense_weight=0",
            ),
            (
                self.regions_weight > 0 and (exhaustive or batch or not self.has_target),
                "regions_weight: needs encode=matched, layout=montage or scattered, and loss=infonce or byol; or use "
                "regions_weight=0",
            ),
            (
                self.regions_weight > 0 and self.labels,
                "regions_weight: not with labels; use labels=false or regions_weight=0",
            ),
            (
                self.attention == "tile" and self.layout != "montage",
                f"attention=tile: layout={self.layout} has no tiles of a grid on a canvas; use layout=montage",
            ),
            (batch and exhaustive, "layout=batch has no canvases to encode exhaustively; use encode=matched"),
            (
                batch and full,
                "layout=batch: the target network sees what the assignment asks for; use target_canvases=all",
            ),
            (exhaustive and full, "encode=exhaustive encodes all canvases by definition; use target_canvases=all"),
            (full and not self.has_target, f"loss={loss} has no target network; use target_canvases=all"),
            (
                loss in ("byol", "simsiam") and not self.predictor,
                f"loss={loss} collapses without predictors; use predictor=true",
            ),
            (loss == "vicreg" and self.predictor, "loss=vicreg has no predictors; use predictor=false"),
            (self.queue > 0 and loss != "infonce", f"queue: loss={loss} has no negatives; use queue=0 or loss=infonce"),
            (
                self.queue > 0 and self.labels,
                "queue: the classes of queued targets are not known; use queue=0 or labels=false",
            ),
            (
                self.labels and not self.has_target,
                f"labels: loss={loss} compares views of one image; use loss=infonce or byol, or labels=false",
            ),
        ]
