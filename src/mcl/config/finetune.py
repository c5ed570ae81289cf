"""Settings of ``mcl finetune`` and ``mcl evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, SerializeAsAny, model_validator

from mcl.config.base import Command, Section
from mcl.config.choice import Choice
from mcl.config.detector import DetectorSettings
from mcl.config.optim import Device, LoopSettings, OptimSettings, ScheduleSettings
from mcl.config.parts import Parts
from mcl.config.stitch import StitchSettings
from mcl.config.unused import OnlyWith, of_schedule_and_optimizer
from mcl.config.watch import WatchSettings

Pixels = Annotated[
    int,
    Field(ge=4096, description="Largest width x height that is decoded; a larger image stops the command."),
]


class ShapeSettings(Section):
    """Shape of the trunk when none is loaded (``--trunk none`` without ``--like``)."""

    backbone: str = Field(
        "resnet50", description="timm name of a network with features at strides 4, 8, 16, 32."
    )
    pyramid_channels: int = Field(256, ge=4, le=2048, description="Channels of the pyramid and the heads.")
    head_convs: int = Field(4, ge=0, le=8, description="3x3 convolutions of the box head.")
    patch_size: int | None = Field(
        None, ge=4, le=32, description="Of a plain transformer: side of its patches in pixels; none: as its name says."
    )


class TransformerSettings(Section):
    """How a transformer is trained in a detector, wherever its weights come from."""

    attention_window: int | None = Field(
        None,
        ge=0,
        description="Of a plain transformer: attention inside windows of so many cells a side (ViTDet: 14), which large images "
        "need; 0: global; none: as in pre-training.",
    )
    global_blocks: list[Annotated[int, Field(ge=0)]] = Field(
        [], description="With attention_window: blocks that attend globally all the same; empty: four, evenly spread."
    )
    drop_path: float = Field(
        0.0, ge=0, lt=1, description="Share of images whose residual branch is left out, rising to this at the last block."
    )


class ViewSettings(Section):
    """How a scene becomes the detector's input in training."""

    flip: float = Field(0.5, ge=0, le=1, description="Probability of a horizontal flip.")
    scale_jitter: tuple[float, float] = Field(
        (1.0, 1.0), description="Resize by a random factor in this range, then crop or pad; (1, 1): off."
    )
    colour: float = Field(
        0.0, ge=0, le=1, description="Strength of brightness, contrast and saturation jitter; 0: off."
    )
    copy_paste: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Probability that objects of another scene are pasted in, by their segmentations.",
    )
    short_sides: list[int] = Field(
        [],
        examples=[[640, 800]],
        description="Resize the shorter side to one of these (COCO: 640..800); empty: fit into image_size.",
    )
    long_side: int = Field(1333, ge=32, description="Longest side with short_sides.")

    @model_validator(mode="after")
    def _ranges(self) -> ViewSettings:
        low, high = self.scale_jitter
        if not 0.05 <= low <= high <= 4:
            raise ValueError("views.scale_jitter must be two rising factors between 0.05 and 4")
        if any(not 32 <= side <= 4096 for side in self.short_sides):
            raise ValueError("views.short_sides must lie between 32 and 4096 pixels")
        if self.short_sides and self.scale_jitter != (1.0, 1.0):
            raise ValueError("give either views.short_sides or views.scale_jitter, not both")
        return self


class FinetuneOptim(OptimSettings):
    """Update rule, with defaults for small data: AdamW, where SGD at the 1x rate learns next to nothing."""

    name: Literal["lars", "sgd", "adamw"] = Field("adamw", description="Update rule.")
    lr: float = Field(
        1e-3, gt=0, description="Peak learning rate (for lr_batch images a step, if that is set)."
    )
    lr_batch: int | None = Field(
        None, ge=1, description="lr is scaled by batch / lr_batch; none: lr is used as it is."
    )
    weight_decay: float = Field(
        0.05, ge=0, description="Weight decay; never on 1-D parameters (biases, norms)."
    )
    clip_norm: float | None = Field(
        10.0, gt=0, description="Clip the global gradient norm; none: no clipping."
    )
    backbone_lr: float = Field(1.0, gt=0, le=100, description="The backbone's rate, times lr.")
    pyramid_lr: float = Field(1.0, gt=0, le=100, description="The pyramid's rate, times lr.")
    heads_lr: float = Field(1.0, gt=0, le=100, description="The rate of all other parts, times lr.")
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="Of a plain transformer: each block's rate is this times the next one's (ViTDet: 0.7)."
    )


class FinetuneSchedule(ScheduleSettings):
    """Length and learning rate over time, with defaults for fine-tuning."""

    steps: int | None = Field(None, ge=1, description="Length in steps (or give epochs); neither: 600.")
    warmup_steps: int = Field(50, ge=0, description="Linear warm-up in steps, on top of warmup_epochs.")
    decay: Literal["cosine", "multistep", "constant"] = Field(
        "multistep", description="Decay after the warm-up."
    )
    final_lr: float = Field(0.0, ge=0, description="Where cosine decay ends, for the scaled lr.")


class FinetuneSettings(Command):
    """Fine-tune a detector from a pre-trained trunk (or from scratch) and measure its AP."""

    choices: ClassVar = (Choice("detector", "auto", "mcl.detect.registry"),)
    common: ClassVar = (
        "recipe", "resume", "detector.name", "parts", "freeze", "like", "image_size", "batch", "schedule.steps", "optim.lr",
        "eval_every", "loop.workers", "loop.device",
    )  # fmt: skip
    recipes_of: ClassVar = "finetune"
    locations: ClassVar = ("trunk",)
    only_with: ClassVar = (
        OnlyWith(
            "model", lambda s: s.trunk == "none" and s.like is None,
            "a trunk brings its own shape, so does --like; it goes with --trunk none",
        ),
        OnlyWith("parts", lambda s: s.trunk != "none", "it goes with a --trunk"),
        OnlyWith("allow_partial", lambda s: s.trunk != "none" or not s.allow_partial, "it goes with a --trunk"),
        OnlyWith("masks", lambda s: s.detector.masks or s.masks == "off", "it goes with --detector.name auto and mask-rcnn"),
        OnlyWith("feature_cache_gb", lambda s: s.freeze == "trunk", "it goes with --freeze trunk"),
        OnlyWith("feature_dtype", lambda s: s.freeze == "trunk", "it goes with --freeze trunk"),
        OnlyWith("repeat_threshold", lambda s: s.sampling == "repeat_factor", "it goes with --sampling repeat_factor"),
        OnlyWith("stitch.small", lambda s: s.stitch.below, "it goes with --stitch.below"),
        OnlyWith("best_by", lambda s: s.eval_every, "it goes with --eval_every"),
        OnlyWith("views.long_side", lambda s: s.views.short_sides, "it goes with --views.short_sides"),
        OnlyWith(
            "loop.activation_checkpointing", lambda s: not s.loop.activation_checkpointing, "mcl pretrain alone has it"
        ),
        OnlyWith("loop.compile", lambda s: not s.loop.compile, "mcl pretrain alone compiles"),
        *of_schedule_and_optimizer(),
    )  # fmt: skip

    trunk: str = Field(description="Run folder or trunk.safetensors to start from; 'none': from scratch.")
    train: Path = Field(description="COCO JSON to train on.")
    val: Path = Field(description="COCO JSON to measure AP on.")
    images: Path = Field(description="Folder that file names in train start from.")
    val_images: Path | None = Field(
        None, description="Folder that file names in val start from; none: as images."
    )
    out: Path = Field(description="Run folder to write.")
    recipe: str | None = Field("finetune-small", description="Shipped settings to start from.")
    config: Path | None = Field(
        None, description="YAML file of settings (over the recipe, under the command line)."
    )
    parts: Parts | None = Field(
        None,
        description="Parts of the trunk to load, the others start fresh; none: what was trained, down to the level.",
    )
    freeze: Literal["none", "backbone", "trunk"] = Field(
        "none",
        description="Parts that are not trained; 'trunk': features are computed once, predictors train.",
    )
    masks: Literal["drop", "require", "off"] = Field(
        "drop",
        description="Objects without a mask: drop: they teach their boxes only, and masks are learned if at least half of "
        "all objects have one; require: none may lack it; off: boxes alone are learned.",
    )
    like: Path | None = Field(
        None,
        description="With --trunk none: run folder or trunk file to take shapes (not weights) from.",
    )
    image_size: int | None = Field(
        None, ge=32, le=2048, multiple_of=32,
        description="Side in pixels that scenes are fitted into; none: the trunk's, 224 without one.",
    )  # fmt: skip
    batch: int = Field(8, ge=1, description="Images a step.")
    sampling: Literal["uniform", "class_balanced", "repeat_factor"] = Field(
        "uniform",
        description="Which images a pass shows: each once; or classes in turn, equally often; or images with rare "
        "classes repeated (LVIS).",
    )
    repeat_threshold: float = Field(
        0.001,
        gt=0,
        le=1,
        description="repeat_factor: a class in a smaller share f of the images is repeated sqrt(threshold / f) times.",
    )
    seed: int = Field(0, ge=0, description="Everything random is a function of this number.")
    resume: bool = Field(False, description="Continue the run in out.")
    allow_changed: bool = Field(
        False, description="With --resume: go on although settings differ from the run's; says which."
    )
    overwrite: bool = Field(False, description="Delete what is in out.")
    dry_run: bool = Field(False, description="Only print settings, steps, FLOPs, memory and time; writes nothing.")
    allow_partial: bool = Field(
        False,
        description="Accept a trunk that lacks tensors of the parts asked for, or has not trained them: they start fresh.",
    )
    max_missing: float = Field(
        0.05, ge=0, lt=1, description="Share of images that may be missing in the image folder."
    )
    max_pixels: Pixels = 178_956_970
    precise_bn_images: int = Field(
        200,
        ge=0,
        description="Training images to measure BatchNorm statistics on before testing; 0: do not.",
    )
    calibrate_bn: bool = Field(
        False,
        description="With a frozen trunk: recompute its BatchNorm statistics on the training scenes first.",
    )
    feature_cache_gb: float = Field(
        1.0,
        ge=0,
        description="With a frozen trunk: features beyond this go to a file in the run folder; those of several "
        "processes always do.",
    )
    feature_dtype: Literal["float16", "float32"] = Field(
        "float16", description="How features are kept (frozen trunk)."
    )
    eval_every: int | None = Field(
        None,
        ge=1,
        description="Also measure AP after every so many steps (curve.jsonl, metrics.jsonl); none: at the end only. "
        "Changes no result.",
    )
    best_by: Literal["box_AP", "mask_AP", "class_agnostic_AP"] = Field(
        "box_AP", description="With eval_every: the number by which detector.best.safetensors is the best."
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="Stop early when best_by has not risen for so many measurements; none: never. Needs eval_every.",
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Also keep an exponential moving average of the weights with this decay (0.9998, say), and measure and "
        "export it instead of the last weights; none: do not.",
    )
    test_batch: int = Field(8, ge=1, description="Images a step when measuring AP.")
    model: ShapeSettings = Field(default_factory=ShapeSettings, description="Shape without a trunk.")
    views: ViewSettings = Field(default_factory=ViewSettings, description="Size and augmentation of scenes.")
    stitch: StitchSettings = Field(default_factory=StitchSettings, description="Dynamic scale training.")
    transformer: TransformerSettings = Field(
        default_factory=TransformerSettings, description="How a transformer is trained in a detector."
    )
    detector: SerializeAsAny[DetectorSettings] = Field(
        default_factory=DetectorSettings, description="Kind, heads and sampling."
    )
    optim: FinetuneOptim = Field(default_factory=FinetuneOptim, description="Update rule.")
    schedule: FinetuneSchedule = Field(
        default_factory=FinetuneSchedule, description="Length and learning rate."
    )
    loop: LoopSettings = Field(default_factory=LoopSettings, description="The loop besides training.")
    watch: WatchSettings = Field(default_factory=WatchSettings, description="When to warn.")

    @model_validator(mode="after")
    def _consistent(self) -> FinetuneSettings:
        if self.trunk != "none" and self.like is not None:
            raise ValueError("--like only goes with --trunk none (a trunk brings its own shapes)")
        if self.masks == "off" and self.detector.name == "mask-rcnn":
            raise ValueError("--masks off: mask-rcnn learns masks; give --detector.name faster-rcnn (or auto)")
        self.detector.check_trunk(self.parts, self.trunk != "none")
        if self.freeze == "trunk" and not self.detector.freezes_trunk:
            raise ValueError(
                f"--freeze trunk: {self.detector.title} cannot train on a frozen trunk, the R-CNNs can "
                "(--freeze backbone works with every detector)"
            )
        if self.freeze == "trunk" and self.trunk != "none" and self.parts not in (None, "backbone+pyramid+head"):
            raise ValueError(
                "--freeze trunk needs --parts backbone+pyramid+head: a fresh part must not be frozen"
            )
        if self.freeze == "backbone" and self.trunk == "none":
            raise ValueError("--freeze backbone needs a trunk: a fresh backbone must not be frozen")
        if self.calibrate_bn and self.freeze != "trunk":
            raise ValueError("--calibrate_bn only goes with --freeze trunk (statistics that train need none)")
        views = self.views
        jittered = views.colour or views.copy_paste or views.scale_jitter != (1.0, 1.0)
        if self.freeze == "trunk" and (views.short_sides or jittered):
            raise ValueError(
                "--freeze trunk computes features once: of views only flip is possible "
                "(set views.short_sides [], views.colour 0, views.scale_jitter 1 1, views.copy_paste 0)"
            )
        if self.freeze == "trunk" and self.stitch.below:
            raise ValueError("--freeze trunk computes features once: images cannot be stitched; leave --stitch.below away")
        if self.patience and not self.eval_every:
            raise ValueError("--patience counts measurements on the way: give --eval_every")
        return self


class EvaluateSettings(Command):
    """Measure the AP of a fine-tuned detector on a COCO JSON."""

    detector: Path = Field(description="Run folder of mcl finetune, or its detector.safetensors.")
    val: Path = Field(description="COCO JSON to measure AP on.")
    images: Path = Field(description="Folder that file names in val start from.")
    out: Path = Field(description="Folder to write predictions and figures to.")
    overwrite: bool = Field(False, description="Delete what is in out.")
    batch: int = Field(8, ge=1, description="Images a step.")
    max_missing: float = Field(
        0.05, ge=0, lt=1, description="Share of images that may be missing in the image folder."
    )
    max_pixels: Pixels = 178_956_970
    score_threshold: float | None = Field(
        None, ge=0, lt=1, description="Drop detections that score less; none: as trained."
    )
    workers: int = Field(1, ge=0, le=256, description="DataLoader processes; 0 loads in the main process.")
    device: Device = Field(
        "auto", description="Where to run; auto takes a GPU if there is one."
    )
    threads: int | None = Field(None, ge=1, description="CPU threads of torch; none: as torch chooses.")
