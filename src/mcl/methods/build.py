"""From a recipe to a method: the one place where pre-training, ``mcl bench`` and ``mcl doctor`` get theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

import torch

from mcl.config.method import MethodSettings
from mcl.config.optim import LoopSettings, OptimSettings
from mcl.config.pretrain import ModelSettings, ViewSettings
from mcl.data.computed import Survey
from mcl.data.loading.views import Wanted
from mcl.data.sources.pictures import Picture
from mcl.engine.machine.precision import format_of
from mcl.errors import UserError
from mcl.methods.base import Method
from mcl.methods.registry import method_of
from mcl.nn.convolution import use_matrix_gradients
from mcl.nn.recompute import recompute_blocks
from mcl.nn.trunk import Trunk, TrunkSpec
from mcl.nn.vit import PlainVit, fix_positions, freeze_patches
from mcl.randomness import STREAM_WEIGHTS, seeded


class Recipe(Protocol):
    """What the settings of ``mcl pretrain``, ``bench`` and ``doctor`` have in common."""

    seed: int
    batch: int
    accumulate: int
    image_size: int
    model: ModelSettings
    method: MethodSettings
    views: ViewSettings
    optim: OptimSettings
    loop: LoopSettings


R = TypeVar("R", bound=Recipe)


def build_method(
    settings: Recipe,
    pretrained: bool = False,
    fill: Callable[[Trunk], None] = lambda trunk: None,
) -> Method:
    """A method with the weights that the recipe's seed gives, in train mode on the CPU.

    Args:
        settings: the recipe; where ``auto`` is still in its loop, the method computes in the default format.
        pretrained: take timm's weights for the backbone (downloads them).
        fill: puts weights from elsewhere into the trunk, before the target is copied from it.

    Raises:
        UserError: a backbone that timm does not have, that has no features at strides 4, 8, 16, 32, or whose blocks
            are not known where ``loop.activation_checkpointing`` needs them; a library that the method is built from
            is not installed.
    """
    model, loop, form = settings.model, settings.loop, format_of(settings.loop)
    kind = method_of(settings.method.name)
    spec = TrunkSpec(
        model.backbone, model.pyramid_channels, model.head_convs, settings.image_size, finer=model.finer,
        patch_size=model.patch_size or 0, attention_window=model.attention_window or 0,
        global_blocks=tuple(model.global_blocks),
    )  # fmt: skip
    with seeded(STREAM_WEIGHTS, settings.seed):
        trunk = Trunk(spec, pretrained, model.drop_path)
        fix_as_asked(trunk, model)
        fill(trunk)
        built = kind(trunk, model, settings.method, settings.seed, form.precision, form.channels_last)
    if loop.matrix_gradients:
        use_matrix_gradients(trunk)
    if loop.activation_checkpointing and not recompute_blocks(trunk.backbone.body):
        raise UserError(f"--loop.activation_checkpointing: does not know the blocks of {model.backbone}")
    return to_layout(built, form.channels_last)


def fix_as_asked(trunk: Trunk, model: ModelSettings) -> None:
    """What of a plain transformer is not to be trained: positions, the patch projection.

    Raises:
        UserError: it is asked for, and the backbone is none.
    """
    body, asked = trunk.backbone.body, {"positions": "sincos", "patch_projection": "frozen"}
    for name, value in asked.items():
        if getattr(model, name) != value:
            continue
        if not isinstance(body, PlainVit):
            raise UserError(f"--model.{name} {value}: {model.backbone} is no plain transformer")
        {"positions": fix_positions, "patch_projection": freeze_patches}[name](body)


def settle_method(settings: R, pictures: Sequence[Picture]) -> R:
    """A recipe whose method knows what the names of the pictures decide (its classes).

    Raises:
        UserError: the pictures lack what the method needs.
    """
    method = method_of(settings.method.name).settle(settings.method, pictures)
    return settings.model_copy(update={"method": method})


def wanted_of(settings: Recipe, survey: Survey | None = None) -> Wanted:
    """What a recipe's method wants of every image.

    Args:
        survey: of the run's pictures, for what each of them adds to a batch (labels, boxes, masks); none: views alone.
    """
    method = method_of(settings.method.name)
    wanted = method.wanted(settings.method, settings.views, settings.image_size)
    return replace(wanted, fields=method.fields(settings.method, survey)) if survey else wanted


def compute_in(method: Method, loop: LoopSettings) -> Method:
    """Let a built method compute as ``loop.precision`` and ``loop.channels_last`` say; returns it."""
    form = format_of(loop)
    method.precision, method.channels_last = form.precision, form.channels_last
    return to_layout(method, form.channels_last)


def to_layout(method: Method, channels_last: bool) -> Method:
    """Convolution weights in NHWC or NCHW."""
    return method.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
