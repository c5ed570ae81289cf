"""Which ResNet a state dict belongs to, read from names and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock, Bottleneck

#: (block, blocks of each layer, groups, width of a group) -> timm's name, which for all of them is torchvision's
NAMES = {
    ("basic", (2, 2, 2, 2), 1, 64): "resnet18",
    ("basic", (3, 4, 6, 3), 1, 64): "resnet34",
    ("bottleneck", (2, 2, 2, 2), 1, 64): "resnet26",
    ("bottleneck", (3, 4, 6, 3), 1, 64): "resnet50",
    ("bottleneck", (3, 4, 23, 3), 1, 64): "resnet101",
    ("bottleneck", (3, 8, 36, 3), 1, 64): "resnet152",
    ("bottleneck", (3, 4, 6, 3), 32, 4): "resnext50_32x4d",
    ("bottleneck", (3, 4, 23, 3), 32, 8): "resnext101_32x8d",
    ("bottleneck", (3, 4, 23, 3), 64, 4): "resnext101_64x4d",
    ("bottleneck", (3, 4, 6, 3), 1, 128): "wide_resnet50_2",
    ("bottleneck", (3, 4, 23, 3), 1, 128): "wide_resnet101_2",
}


@dataclass(frozen=True)
class ResnetShape:
    """A plain ResNet (7x7 stem, stride in the 3x3).

    Attributes:
        block: ``basic`` or ``bottleneck``.
        counts: blocks of layer1 .. layer4.
        groups: groups of the 3x3 convolutions.
        width: channels of a group in layer1 (64; 4 in ResNeXt-50 32x4d).
        stem: shape of the first convolution's weight; () for a deep stem.
    """

    block: str
    counts: tuple[int, ...]
    groups: int
    width: int
    stem: tuple[int, ...]

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> ResnetShape | None:
        """Shape of a state dict with torchvision's names (``conv1.weight``, ``layer1.0.conv1.weight``); None if it has others."""
        middle = state.get("layer1.0.conv2.weight")
        if middle is None or middle.dim() != 4 or 0 in middle.shape:
            return None
        blocks = [re.match(r"layer(\d)\.(\d{1,3})\.", name) for name in state]
        counts = tuple(
            max((int(b[2]) + 1 for b in blocks if b and b[1] == str(layer)), default=0)
            for layer in (1, 2, 3, 4)
        )
        bottleneck = "layer1.0.conv3.weight" in state
        stem = state.get("conv1.weight")
        # conv2 of layer1: (groups * width, width, 3, 3)
        return cls(
            "bottleneck" if bottleneck else "basic", counts, middle.shape[0] // middle.shape[1], middle.shape[1],
            () if stem is None else tuple(stem.shape) or (1,),
        )  # fmt: skip

    @property
    def name(self) -> str | None:
        """timm's name for it."""
        return NAMES.get((self.block, self.counts, self.groups, self.width))

    @property
    def widths(self) -> list[int]:
        """Channels of C2..C5."""
        return [(64 if self.block == "basic" else 256) * 2**i for i in range(4)]

    def build(self) -> ResNet:
        """torchvision's network, with fresh weights.

        Raises:
            ValueError: it has none like this (basic blocks with groups).
        """
        block = BasicBlock if self.block == "basic" else Bottleneck
        return ResNet(block, list(self.counts), groups=self.groups, width_per_group=self.width)

    def stem_differs(self) -> str | None:
        """In words, when the first convolution is not the usual 7x7 on RGB."""
        if not self.stem:
            return "its stem is three 3x3 convolutions ('deep stem', timm's resnet..d), not one 7x7"
        if len(self.stem) != 4:
            return f"its stem has shape {list(self.stem)} and is no 7x7 convolution"
        outputs, inputs, height, _ = self.stem
        if inputs != 3:
            return f"its stem reads {inputs} channels, not RGB's 3"
        if height == 3:
            return "its stem is one 3x3 convolution (SimCLR's form for small images such as CIFAR's), not 7x7"
        return (
            None
            if (outputs, height) == (64, 7)
            else f"its stem is {height}x{height} with {outputs} channels, not 7x7 with 64"
        )


def plain_shape(body: Mapping[str, Tensor]) -> ResnetShape | None:
    """Shape of a plain ResNet; None unless names and shapes are all those of torchvision's.

    Norms without statistics (``resnet50_gn``), attention, deep stems and shortcuts behind a pooling do not pass. Names
    and shapes do not tell all: ``resnetblur50`` passes.

    Args:
        body: state dict of a backbone without classifier.
    """
    shape = ResnetShape.of(body)
    if shape is None or shape.stem_differs():
        return None
    try:
        with torch.device("meta"):
            wanted = shape.build().state_dict()
    except ValueError:
        return None
    sizes = {name: tensor.shape for name, tensor in wanted.items() if not name.startswith("fc.")}
    return shape if sizes == {name: tensor.shape for name, tensor in body.items()} else None
