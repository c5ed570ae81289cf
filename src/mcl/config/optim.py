"""Settings of the optimizer, its schedule and the loop: shared by pre-training and fine-tuning."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from mcl.config.base import Section

Device = Annotated[
    str,
    Field(json_schema_extra={"examples": ["auto", "cpu", "cuda", "cuda:1"]}),
    AfterValidator(lambda given: _device(given)),
]


def _device(given: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", given):
        raise ValueError(f"must be auto, cpu, cuda or cuda:NUMBER, got {given!r}")
    return given


class OptimSettings(Section):
    """Update rule."""

    name: Literal["lars", "sgd", "adamw"] = Field("lars", description="Update rule.")
    lr: float = Field(
        1.0, gt=0, description="Peak learning rate (for lr_batch images a step, if that is set)."
    )
    lr_batch: int | None = Field(
        256, ge=1, description="lr is scaled by batch / lr_batch; none: lr is used as it is."
    )
    weight_decay: float = Field(
        1e-5, ge=0, description="Weight decay; never on 1-D parameters (biases, norms)."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of lars and sgd.")
    betas: tuple[float, float] = Field((0.9, 0.999), description="Betas of adamw.")
    trust: float = Field(0.001, gt=0, description="Trust coefficient of lars.")
    clip_norm: float | None = Field(
        500.0, gt=0, description="Clip the global gradient norm; none: no clipping."
    )

    def peak_lr(self, batch: int) -> float:
        """Learning rate after warm-up for a global batch of ``batch`` images."""
        return self.lr if self.lr_batch is None else self.lr * batch / self.lr_batch


class ScheduleSettings(Section):
    """Length and learning rate over time."""

    one_of: ClassVar = ("epochs", "steps")

    epochs: float | None = Field(None, gt=0, description="Length in passes over the images (or give steps).")
    steps: int | None = Field(None, ge=1, description="Length in steps (or give epochs).")
    warmup_epochs: float = Field(0.0, ge=0, description="Linear warm-up, in passes over the images.")
    warmup_steps: int = Field(0, ge=0, description="Linear warm-up in steps, on top of warmup_epochs.")
    decay: Literal["cosine", "multistep", "constant"] = Field(
        "cosine", description="Decay after the warm-up."
    )
    final_lr: float = Field(1e-4, ge=0, description="Where cosine decay ends, for the scaled lr.")
    milestones: list[float] = Field(
        [2 / 3, 8 / 9], description="multistep: fractions of the run after which lr is divided by 10."
    )

    @model_validator(mode="after")
    def _one_length(self) -> ScheduleSettings:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give either schedule.epochs or schedule.steps, not both")
        return self


class LoopSettings(Section):
    """What the loop does besides training."""

    workers: int = Field(
        1, ge=0, le=256, description="DataLoader processes; 0 loads in the training process."
    )
    log_every: int = Field(10, ge=1, description="Steps between two lines of metrics.")
    checkpoint_every: int = Field(500, ge=1, description="Steps between two checkpoints (last.pt).")
    on_checkpoint_error: Literal["stop", "continue"] = Field(
        "stop",
        description="When a checkpoint cannot be written (disk full): stop, which bounds the loss, or train on and "
        "try again at the next one; the last one always has to succeed.",
    )
    device: Device = Field("auto", description="Where to train; auto takes a GPU if there is one; cuda:1: the second one.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="Number format. bf16: autocast, the loss stays in fp32; auto: fp32, or bf16 where a short trial at "
        "the start finds it clearly quicker (remembered for this machine and recipe).",
    )
    channels_last: bool | Literal["auto"] = Field(
        "auto",
        description="NHWC memory layout of convolutions; auto: the quicker one in the same trial.",
    )
    activation_checkpointing: bool = Field(
        False,
        description="Pre-training: keep only the inputs of the backbone's blocks for backward, and compute the rest "
        "again: less memory, about a third more work, the same result.",
    )
    compile: bool = Field(
        False,
        description="Pre-training: torch.compile backbone and head; if that fails, the run says why and goes on without.",
    )
    matrix_gradients: bool = Field(
        True,
        description="On CPUs: weight gradients of convolutions with many channels over few cells as one matrix product, "
        "which is quicker; false: as torch computes them.",
    )
    keep_memory: bool = Field(
        True,
        description="On CPUs with glibc: keep freed memory for the next step instead of giving it back to the system, "
        "which costs time in every step; false: less memory, slower.",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads of torch; none: as torch chooses.")
    sync_bn: bool = Field(
        True, description="With several processes: BatchNorm statistics of the joint batch; false: each its own."
    )
    trackers: list[Literal["wandb", "mlflow"]] = Field(
        [],
        examples=[["wandb", "mlflow"]],
        description="Services that get the numbers too (pip install 'mcl[wandb]', 'mcl[mlflow]').",
    )
    project: str = Field("mcl", min_length=1, description="What trackers file the run under: W&B project, MLflow experiment.")
    tensorboard: bool = Field(True, description="Write TensorBoard events beside metrics.jsonl.")
