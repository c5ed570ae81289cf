"""The trunk: backbone + pyramid + box-head convolutions. It is what pre-training hands on.

Names are torchvision's (``backbone.body.*``, ``backbone.fpn.*``, ``roi_heads.box_head.{0..3}.{0,1}.*``), so a
detector in torchvision's v2 form takes the weights as they are.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from mcl.errors import UserError
from mcl.files import save_tensors
from mcl.nn.backbone import STRIDES, build_backbone, channels_of, features_of
from mcl.nn.described import checked_spec, require_fit, shapes_of, trunk_of_detector
from mcl.nn.heads import LevelWise
from mcl.nn.parts import BODY, LEVELS, least_parts, pieces_in, prefixes_of, trained_in
from mcl.nn.pyramid import build_pyramid, build_simple_pyramid
from mcl.nn.stored import TRUNK_FILE, read_stored, require_version, stored_file
from mcl.nn.vit import PlainVit, VitForm, is_plain_vit

FORMAT_VERSION = 1
FILE_NAME = TRUNK_FILE
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
OF_TRANSFORMERS = ("patch_size", "attention_window", "global_blocks")


@dataclass(frozen=True)
class TrunkSpec:
    """Shape of a trunk and what its images look like.

    Attributes:
        backbone: timm name.
        pyramid_channels: channels of P2..P5 and of the head's convolutions.
        head_convs: number of 3x3 convolutions of the head.
        image_size: side in pixels of the images it was pre-trained on.
        mean, std: of RGB values in 0..1.
        finer: levels below P5 from which full-size images are read.
        patch_size, attention_window, global_blocks: of a plain transformer, see ``VitForm``.
    """

    backbone: str = "resnet50"
    pyramid_channels: int = 256
    head_convs: int = 4
    image_size: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    finer: int = 0
    patch_size: int = 0
    attention_window: int = 0
    global_blocks: tuple[int, ...] = ()

    @property
    def form(self) -> VitForm:
        """Of a plain transformer."""
        return VitForm(self.patch_size, self.attention_window, tuple(self.global_blocks))

    @property
    def plain(self) -> bool:
        """Whether the backbone is a plain transformer: its pyramid is the simple one, norms are LayerNorms."""
        return is_plain_vit(self.backbone)

    def at_size(self, image_size: int) -> TrunkSpec:
        """The spec of a network for images of another size: a plain transformer's positions are interpolated instead."""
        return self if self.plain else replace(self, image_size=image_size)

    def described(self) -> dict[str, Any]:
        """As a trunk file has it: without what only transformers have, unless it is set."""
        told = asdict(self)
        return {name: value for name, value in told.items() if value or name not in OF_TRANSFORMERS}

    @property
    def window(self) -> int:
        """Side in cells of the windows the head was pre-trained on (7 at 224 px; twice that a level finer)."""
        return self.image_size // STRIDES[-1] << self.finer

    def level_of(self, scale: int) -> int:
        """Level (0 is P2) on which an image shrunk by ``scale`` covers exactly one window: 1 -> P5 ... 8 -> P2."""
        return len(LEVELS) - scale.bit_length() - self.finer


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
        return self.fpn(OrderedDict(zip(self.levels[-len(features) :], features, strict=True)))


class Trunk(nn.Module):
    """Backbone, pyramid and the shared head's convolutions, under torchvision's names.

    Attributes:
        trained: pieces that were pre-trained (``mcl.nn.parts.PIECES``); the others hold the values they started from.
    """

    def __init__(self, spec: TrunkSpec, pretrained: bool = False, drop_path: float = 0.0) -> None:
        super().__init__()
        self.spec = spec
        self.trained: tuple[str, ...] = ()
        self.backbone = build_pyramid_backbone(spec, pretrained=pretrained, drop_path=drop_path)
        self.roi_heads = nn.Module()
        self.roi_heads.box_head = build_head_convs(spec.pyramid_channels, spec.head_convs, norm_of(spec))
        self.out_channels = spec.pyramid_channels

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """(N, 3, H, W) -> p2..p5."""
        return self.backbone(images)


def build_pyramid_backbone(
    spec: TrunkSpec,
    levels: tuple[str, ...] = LEVELS,
    above: ExtraFPNBlock | None = None,
    pretrained: bool = False,
    drop_path: float = 0.0,
) -> PyramidBackbone:
    """Backbone and pyramid of a spec.

    Args:
        levels: the last of p2..p5, for a detector that does not read all.
        above: see ``build_pyramid``.
        drop_path: see ``build_backbone``.
    """
    body = build_backbone(spec.backbone, spec.image_size, pretrained, spec.form, drop_path)
    channels = channels_of(body)[-len(levels) :]
    if isinstance(body, PlainVit):
        pyramid = build_simple_pyramid(channels[-1], body.stride, spec.pyramid_channels, levels, above)
    else:
        pyramid = build_pyramid(channels, spec.pyramid_channels, above)
    return PyramidBackbone(body, pyramid, spec.pyramid_channels, levels)


def norm_of(spec: TrunkSpec) -> type[nn.Module]:
    """Norm of a trunk's and its detectors' heads: LayerNorm over channels on plain transformers (ViTDet), else BatchNorm."""
    return LayerNorm2d if spec.plain else nn.BatchNorm2d


def build_head_convs(channels: int, convs: int, norm: type[nn.Module] = nn.BatchNorm2d) -> LevelWise:
    """``convs`` x [3x3 conv without bias, norm, ReLU]; Kaiming normal, fan out (as torchvision's box head)."""
    blocks = [Conv2dNormActivation(channels, channels, 3, norm_layer=norm) for _ in range(convs)]
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
        "spec": trunk.spec.described(),
        "levels": list(LEVELS),
        "strides": list(STRIDES),
        "channel_order": "RGB",
        "parts": least_parts(trained),
        **metadata,
        "trained": list(trained),
    }
    save_tensors(path, trunk.state_dict(), {key: json.dumps(value) for key, value in described.items()})


def read_trunk(path: Path | str) -> tuple[TrunkSpec, dict[str, Tensor], dict[str, Any]]:
    """Read a trunk file, the one in a run folder, or the trunk inside a fine-tuned detector.

    Returns:
        Spec, state dict and metadata (of a detector: see ``trunk_of_detector``).

    The metadata's ``trained`` lists the pieces that were trained, also for files of before, which did not say it.

    Raises:
        UserError: missing, not a trunk of ours, of a newer format, damaged, or a spec that its tensors do not have.
    """
    file = stored_file(path)
    where, (metadata, state) = str(file), read_stored(file)
    if "plan" in metadata:
        metadata, state = trunk_of_detector(metadata, state, where)
        spec = TrunkSpec(**checked_spec(metadata["spec"], state, where))
        return _as_built(spec, state, metadata["detector_size"]), state, metadata
    if "spec" not in metadata:
        raise UserError(f"{where}: no trunk of mcl (its metadata has no 'spec')")
    require_version(metadata, FORMAT_VERSION, where)
    try:
        metadata["trained"] = list(trained_in(metadata))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return TrunkSpec(**checked_spec(metadata["spec"], state, where)), state, metadata


def _as_built(spec: TrunkSpec, state: Mapping[str, Tensor], detector_size: int | None) -> TrunkSpec:
    """The spec that gives the shapes of ``state``: a detector builds a transformer of fixed size for its own images."""
    if detector_size is None or spec.plain:
        return spec
    body = shapes_of(lambda: build_backbone(spec.backbone, spec.image_size)) or {}
    same = all(state[BODY + name].shape == tensor.shape for name, tensor in body.items() if BODY + name in state)
    return spec if same else replace(spec, image_size=detector_size)


def load_trunk(path: Path | str) -> Trunk:
    """The pre-trained trunk of a run folder or ``trunk.safetensors``, in eval mode; every tensor must fit.

    It is always whole; ``trained`` names the pieces that were pre-trained. (A method that reads the last level alone
    leaves p2, p3 and p4 at the values they started from.) The run folder of a fine-tuned detector, or its
    ``detector.safetensors``, gives the trunk inside it; what the detector has not of it, starts fresh.

    Raises:
        UserError: as ``read_trunk``, or if the file's tensors are not exactly the trunk's.
    """
    spec, state, metadata = read_trunk(path)
    return trunk_from(spec, state, metadata, str(path), whole=metadata.get("method") != "fine-tuned")


def trunk_from(
    spec: TrunkSpec, state: Mapping[str, Tensor], metadata: Mapping[str, Any], where: str, whole: bool
) -> Trunk:
    """A trunk in eval mode with the tensors of ``read_trunk``; all must fit.

    Args:
        where: what errors call the file.
        whole: every piece must be there; else those that are there must be complete, and the others start fresh.

    Raises:
        UserError: tensors are missing, unexpected or of another shape.
    """
    require_fit(lambda: Trunk(spec), state, where, "" if whole else prefixes_of(pieces_in(state)))
    trunk = Trunk(spec)
    trunk.load_state_dict(state, strict=whole)
    trunk.trained = tuple(metadata["trained"])
    return trunk.eval()
