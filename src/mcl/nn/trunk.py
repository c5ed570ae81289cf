"""The trunk: backbone + pyramid + box-head convolutions. It is what pre-training hands on.

Names are torchvision's (``backbone.body.*``, ``backbone.fpn.*``, ``roi_heads.box_head.{0..3}.{0,1}.*``), so a
detector in torchvision's v2 form takes the weights as they are.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from mcl.errors import UserError
from mcl.nn.backbone import STRIDES, build_backbone, channels_of, features_of
from mcl.nn.heads import LevelWise
from mcl.nn.parts import LEVELS, least_parts, trained_in
from mcl.nn.pyramid import build_pyramid

FORMAT_VERSION = 1
FILE_NAME = "trunk.safetensors"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class TrunkSpec:
    """Shape of a trunk and what its images look like.

    Attributes:
        backbone: timm name.
        pyramid_channels: channels of P2..P5 and of the head's convolutions.
        head_convs: number of 3x3 convolutions of the head.
        image_size: side in pixels of the images it was pre-trained on.
        mean, std: of RGB values in 0..1.
    """

    backbone: str = "resnet50"
    pyramid_channels: int = 256
    head_convs: int = 4
    image_size: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @property
    def window(self) -> int:
        """Side in cells of the windows the head was pre-trained on (7 at 224 px)."""
        return self.image_size // STRIDES[-1]


class PyramidBackbone(nn.Module):
    """Backbone and pyramid, usable as ``backbone=`` of torchvision's detectors."""

    def __init__(
        self, body: nn.Module, fpn: nn.Module, out_channels: int, levels: tuple[str, ...] = LEVELS
    ) -> None:
        super().__init__()
        self.body, self.fpn, self.out_channels, self.levels = body, fpn, out_channels, levels

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """(N, 3, H, W) -> the levels and what the pyramid has above them, each (N, C, H / stride, W / stride)."""
        features = features_of(self.body, images)[-len(self.levels) :]
        return self.fpn(OrderedDict(zip(self.levels, features, strict=True)))


class Trunk(nn.Module):
    """Backbone, pyramid and the shared head's convolutions, under torchvision's names.

    Attributes:
        trained: pieces that were pre-trained (``mcl.nn.parts.PIECES``); the others hold the values they started from.
    """

    def __init__(self, spec: TrunkSpec, pretrained: bool = False) -> None:
        super().__init__()
        self.spec = spec
        self.trained: tuple[str, ...] = ()
        self.backbone = build_pyramid_backbone(spec, pretrained=pretrained)
        self.roi_heads = nn.Module()
        self.roi_heads.box_head = build_head_convs(spec.pyramid_channels, spec.head_convs)
        self.out_channels = spec.pyramid_channels

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """(N, 3, H, W) -> p2..p5."""
        return self.backbone(images)


def build_pyramid_backbone(
    spec: TrunkSpec,
    levels: tuple[str, ...] = LEVELS,
    above: ExtraFPNBlock | None = None,
    pretrained: bool = False,
) -> PyramidBackbone:
    """Backbone and pyramid of a spec.

    Args:
        levels: the last of p2..p5, for a detector that does not read all.
        above: see ``build_pyramid``.
    """
    body = build_backbone(spec.backbone, spec.image_size, pretrained)
    pyramid = build_pyramid(channels_of(body)[-len(levels) :], spec.pyramid_channels, above)
    return PyramidBackbone(body, pyramid, spec.pyramid_channels, levels)


def build_head_convs(channels: int, convs: int) -> LevelWise:
    """``convs`` x [3x3 conv without bias, BatchNorm, ReLU]; Kaiming normal, fan out (as torchvision's box head)."""
    blocks = [Conv2dNormActivation(channels, channels, 3, norm_layer=nn.BatchNorm2d) for _ in range(convs)]
    for block in blocks:
        nn.init.kaiming_normal_(block[0].weight, mode="fan_out", nonlinearity="relu")
    return LevelWise(*blocks)


def save_trunk(path: Path, trunk: Trunk, metadata: Mapping[str, Any]) -> None:
    """Write ``trunk.safetensors``: weights, buffers, and metadata as JSON strings (complete or not at all).

    Args:
        metadata: JSON types; ``trained`` lists the pieces that were trained (without: what ``parts`` says, or all).
    """
    trained = trained_in(metadata)
    described = {
        "format_version": FORMAT_VERSION,
        "spec": asdict(trunk.spec),
        "levels": list(LEVELS),
        "strides": list(STRIDES),
        "channel_order": "RGB",
        "parts": least_parts(trained),
        **metadata,
        "trained": list(trained),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in trunk.state_dict().items()}
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, {key: json.dumps(value) for key, value in described.items()})
    partial.replace(path)


def read_trunk(path: Path | str) -> tuple[TrunkSpec, dict[str, Tensor], dict[str, Any]]:
    """Read a trunk file, or the one in a run folder: (spec, state dict, metadata).

    The metadata's ``trained`` lists the pieces that were trained, also for files of before, which did not say it.

    Raises:
        UserError: missing, not a trunk of ours, or of a newer format.
    """
    path = Path(path)
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        unfinished = " (the run in this folder has not finished)" if (path / "config.yaml").is_file() else ""
        raise UserError(f"--trunk {path}: no {FILE_NAME} there{unfinished}")
    try:
        with safe_open(file, "pt") as opened:
            metadata = {key: json.loads(value) for key, value in (opened.metadata() or {}).items()}
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"--trunk {file}: not a readable safetensors file: {error}") from None
    if "spec" not in metadata:
        raise UserError(f"--trunk {file}: no trunk of mcl (its metadata has no 'spec')")
    if metadata.get("format_version", 0) > FORMAT_VERSION:
        raise UserError(
            f"--trunk {file}: format {metadata['format_version']}, this mcl reads up to {FORMAT_VERSION}"
        )
    fields = {
        key: tuple(value) if isinstance(value, list) else value for key, value in metadata["spec"].items()
    }
    try:
        metadata["trained"] = list(trained_in(metadata))
    except UserError as error:
        raise UserError(f"--trunk {file}: {error}") from None
    return TrunkSpec(**fields), state, metadata


def load_trunk(path: Path | str) -> Trunk:
    """The pre-trained trunk of a run folder or ``trunk.safetensors``, in eval mode; every tensor must fit.

    It is always whole; ``trained`` names the pieces that were pre-trained. (A method that reads the last level alone
    leaves p2, p3 and p4 at the values they started from.)

    Raises:
        UserError: as ``read_trunk``, or if the file's tensors are not exactly the trunk's.
    """
    spec, state, metadata = read_trunk(path)
    trunk = Trunk(spec)
    trunk.trained = tuple(metadata["trained"])
    try:
        trunk.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"--trunk {path}: {' '.join(str(error).split())}") from None
    return trunk.eval()
