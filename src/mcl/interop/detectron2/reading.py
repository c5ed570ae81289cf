"""Detectron2's weights, read: the trunk's tensors, turned to RGB and ImageNet's std where they are for other pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from mcl.errors import UserError
from mcl.interop.detectron2.names import from_caffe2, from_detectron2
from mcl.interop.detectron2.pickle import as_tensor, read_pickle
from mcl.nn.trunk import IMAGENET_MEAN, IMAGENET_STD

AUTHOR = "mcl"
STEM = "backbone.body.conv1.weight"
NEAR = 0.005  # configurations round ImageNet's std


@dataclass(frozen=True)
class PixelInput:
    """What pixels a network wants: Detectron2's INPUT and MODEL settings, with its defaults.

    Attributes:
        order: ``RGB`` or ``BGR``.
        mean, std: of values in 0..255, in that order.
        stride_in_1x1: bottlenecks as in Caffe2, which a trunk cannot have.
    """

    order: str = "BGR"
    mean: tuple[float, ...] = (103.530, 116.280, 123.675)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    stride_in_1x1: bool = True


def read_detectron2(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Trunk's tensors in a Detectron2 .pkl (RGB, ImageNet std), and notes on what was converted.

    Raises:
        UserError: see ``read_pickle`` and ``described_input``; or a weight that is no array.
    """
    content = read_pickle(path)
    zoo = "model" not in content  # Caffe2's files are the dictionary itself, or under "blobs"
    raw = content.get("blobs", content) if zoo else content["model"]
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected a dictionary of arrays, found a {type(raw).__name__}")
    author = "Caffe2" if zoo else str(content.get("__author__", "unknown"))
    state: dict[str, Tensor] = {}
    for name, value in raw.items():
        if isinstance(name, str) and not name.endswith("_momentum"):
            ours = from_detectron2(from_caffe2(name) if zoo else name)
            if ours is not None:
                state[ours] = as_tensor(value, path, name)
    known = PixelInput() if zoo or "detectron2 model zoo" in author.lower() else None
    if author in (AUTHOR, "torchvision"):
        known = PixelInput("RGB", *_imagenet(), stride_in_1x1=False)
    return state, [f"Detectron2 file of {author!r}", *adapt_input(state, path, known)]


def adapt_input(state: dict[str, Tensor], path: Path, known: PixelInput | None = None) -> list[str]:
    """Turn the first convolution into one for RGB and ImageNet's std, in place; returns notes.

    Args:
        state: under the trunk's names.
        path: the weights; a YAML beside them says what pixels they want.
        known: what they want if there is no YAML; None: unknown.

    Raises:
        UserError: see ``described_input``.
    """
    wanted = described_input(path) or known
    if wanted is None:
        return ["no YAML beside it says whether it wants RGB or BGR; taken as RGB with ImageNet's std"]
    notes = to_rgb(state, wanted)
    if wanted.stride_in_1x1 and "backbone.body.layer1.0.conv3.weight" in state:
        notes.append("strides in the 1x1 convolutions (Caffe2's ResNet) cannot be expressed here: outputs differ")
    return notes


def to_rgb(state: dict[str, Tensor], wanted: PixelInput) -> list[str]:
    """As ``adapt_input``, for known input: exactly the same function of the pixels, if the means agree."""
    notes: list[str] = []
    if STEM not in state or state[STEM].dim() != 4 or state[STEM].shape[1] != 3:
        return notes  # no first convolution of pixels: the load report says what it is instead
    mean, std = wanted.mean, wanted.std
    if wanted.order == "BGR":
        state[STEM] = state[STEM].flip(1).contiguous()
        mean, std = mean[::-1], std[::-1]
        notes.append("made for BGR images: the first convolution's input channels were reversed for RGB")
    ours_mean, ours_std = _imagenet()
    ratio = [ours / theirs for ours, theirs in zip(ours_std, std, strict=True)]
    if any(abs(value - 1) > NEAR for value in ratio):
        state[STEM] = state[STEM] * torch.tensor(ratio).view(1, 3, 1, 1)
        said = f"{std[0]:g}" if len(set(std)) == 1 else str(list(std))
        notes.append(f"made for pixels of std {said}: the first convolution was scaled for ImageNet's std")
    if any(abs(ours - theirs) > 1 for ours, theirs in zip(ours_mean, mean, strict=True)):
        notes.append(f"made for pixels of mean {list(mean)}, not ImageNet's: outputs differ")
    return notes


def described_input(path: Path) -> PixelInput | None:
    """What the YAML of the same name says, or Detectron2's ``config.yaml`` in the same folder; None if there is none.

    Raises:
        UserError: the YAML cannot be read, or asks for pixels that we cannot convert to.
    """
    for config in (path.with_suffix(".yaml"), path.with_name("config.yaml")):
        if config.is_file():
            content = _read(config, path)
            model, pixels = _section(content, "MODEL"), _section(content, "INPUT")
            if model or pixels:  # else some other program's
                return _input(config, model, pixels)
    return None


def _input(config: Path, model: Mapping[str, Any], pixels: Mapping[str, Any]) -> PixelInput:
    plain, order = PixelInput(), pixels.get("FORMAT", "BGR")
    if order not in ("BGR", "RGB"):
        raise UserError(f"{config}: INPUT.FORMAT {order!r}: only RGB and BGR can be turned into ours")
    mean = _three(config, "PIXEL_MEAN", model.get("PIXEL_MEAN", plain.mean))
    std = _three(config, "PIXEL_STD", model.get("PIXEL_STD", plain.std))
    if min(std) <= 0:
        raise UserError(f"{config}: MODEL.PIXEL_STD {list(std)} must be positive")
    return PixelInput(order, mean, std, bool(_section(model, "RESNETS").get("STRIDE_IN_1X1", True)))


def _three(config: Path, name: str, values: Any) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise UserError(f"{config}: MODEL.{name} must be three numbers, is {str(values)[:60]!r}")
    return numbers


def _read(config: Path, weights: Path) -> Any:
    try:
        return yaml.safe_load(config.read_text("utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{config}: cannot be read ({' '.join(str(error).split())[:100]}), and should say whether {weights.name} "
            "wants RGB or BGR; mend it or move it away"
        ) from None


def _section(content: Any, name: str) -> Mapping[str, Any]:
    section = content.get(name) if isinstance(content, Mapping) else None
    return section if isinstance(section, Mapping) else {}


def _imagenet() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std in 0..255, RGB."""
    return tuple(255 * value for value in IMAGENET_MEAN), tuple(255 * value for value in IMAGENET_STD)
