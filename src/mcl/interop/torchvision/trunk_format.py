"""torchvision: state dict of a ResNet, or of a Mask/Faster R-CNN in v2 form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torchvision.models as models
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.rpn import RPNHead

from mcl.interop.torchvision.resnet_shape import ResnetShape
from mcl.interop.writing.exported import (
    Exported,
    TrunkSource,
    compare,
    probe_images,
    require_receiver,
    trunk_maps,
    windows_of,
)
from mcl.nn.load_report import match
from mcl.nn.parts import pieces_of, prefixes_of

LAYERS = ("layer1", "layer2", "layer3", "layer4")


def write_resnet(source: TrunkSource, path: Path) -> Exported:
    """Write the backbone for ``torchvision.models.resnet50().load_state_dict(..., strict=False)``: only fc is missing.

    Raises:
        UserError: the backbone is none of torchvision's ResNets.
        RunFailed: the maps through torchvision's network differ.
    """
    receiver = resnet_receiver(source)
    torch.save(source.body, path)
    wanted = receiver.state_dict()
    kept = tuple(name for name in wanted if not name.startswith("fc."))
    fits, report = match(wanted, _read(path), kept)
    report.require_complete("export", allow_partial=False)
    receiver.load_state_dict(fits, strict=False)
    images = probe_images(source.spec)
    maps = resnet_maps(receiver.eval(), images)
    return Exported(report, compare(trunk_maps(source, images), maps), f"torchvision's {_name(source)}")


def write_rcnn(source: TrunkSource, path: Path) -> Exported:
    """Write backbone, pyramid and box-head convolutions for ``maskrcnn_resnet50_fpn_v2`` (``strict=False``).

    Other depths and widths are for a ``MaskRCNN`` of the same form (``rcnn_receiver`` builds it).

    Raises:
        UserError, RunFailed: as ``write_resnet``.
    """
    resnet = resnet_receiver(source)
    torch.save(source.state, path)
    receiver, built = rcnn_receiver(source, resnet)
    fits, report = match(receiver.state_dict(), _read(path), _prefixes(source))
    report.require_complete("export", allow_partial=False)
    receiver.load_state_dict(fits, strict=False)
    images = probe_images(source.spec)
    maps = rcnn_maps(receiver.eval(), images, source)
    return Exported(report, compare(trunk_maps(source, images), maps), f"torchvision's {built}")


def resnet_receiver(source: TrunkSource) -> models.ResNet:
    """torchvision's own network for this backbone: by name, else its ``ResNet`` class with the same blocks."""
    network: nn.Module | None = None
    shape = ResnetShape.of(source.body)
    if source.backbone in models.list_models(module=models):
        network = models.get_model(source.backbone, weights=None)
    elif shape is not None and shape.stem_differs() is None:
        block = models.resnet.BasicBlock if shape.block == "basic" else models.resnet.Bottleneck
        network = models.ResNet(block, list(shape.counts), groups=shape.groups, width_per_group=shape.width)
    theirs = (
        {n: t.shape for n, t in network.state_dict().items() if not n.startswith("fc.")} if network else {}
    )
    fits = theirs == {name: tensor.shape for name, tensor in source.body.items()}
    require_receiver(source, fits, "torchvision", "ResNets")
    return network


def rcnn_receiver(source: TrunkSource, resnet: models.ResNet) -> tuple[MaskRCNN, str]:
    """torchvision's ``maskrcnn_resnet50_fpn_v2`` where it fits, else a ``MaskRCNN`` of its public parts; and its name."""
    channels, convs = source.spec.pyramid_channels, source.spec.head_convs
    if (source.backbone, channels, convs) == ("resnet50", 256, 4):
        return maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None), "maskrcnn_resnet50_fpn_v2"
    widths = [_width(getattr(resnet, layer)) for layer in LAYERS]
    backbone = BackboneWithFPN(
        resnet, {layer: str(i) for i, layer in enumerate(LAYERS)}, widths, channels, norm_layer=nn.BatchNorm2d
    )
    detector = MaskRCNN(
        backbone,
        num_classes=91,
        rpn_head=RPNHead(channels, 3, conv_depth=2),
        box_head=FastRCNNConvFCHead((channels, 7, 7), [channels] * convs, [1024], norm_layer=nn.BatchNorm2d),
        mask_head=MaskRCNNHeads(channels, [256] * 4, 1, norm_layer=nn.BatchNorm2d),
    )
    return detector, f"MaskRCNN (v2 form, {source.backbone}, {channels} channels, {convs} head convolutions)"


@torch.no_grad()
def resnet_maps(network: models.ResNet, images: Tensor) -> dict[str, Tensor]:
    """c2 .. c5 of torchvision's ResNet."""
    x = network.maxpool(network.relu(network.bn1(network.conv1(images))))
    maps = {}
    for level, layer in enumerate(LAYERS):
        x = getattr(network, layer)(x)
        maps[f"c{level + 2}"] = x
    return maps


@torch.no_grad()
def rcnn_maps(detector: MaskRCNN, images: Tensor, source: TrunkSource) -> dict[str, Tensor]:
    """The maps of the exported parts, through torchvision's detector."""
    maps = {f"c{int(key) + 2}": value for key, value in detector.backbone.body(images).items()}
    if source.levels:
        pyramid = {f"p{int(key) + 2}": value for key, value in detector.backbone(images).items() if key != "pool"}
        maps |= {level: pyramid[level] for level in source.levels}
    if source.has_head and source.levels:
        convs = list(detector.roi_heads.box_head.children())[: source.spec.head_convs]
        maps["head"] = nn.Sequential(*convs)(windows_of(maps[source.levels[0]], source.spec.window))
    return maps


def _prefixes(source: TrunkSource) -> tuple[str, ...]:
    """As ``exported.prefixes``, but of the box head only its convolutions: its linear layers are not ours."""
    return prefixes_of(pieces_of(source.parts), source.spec.head_convs)


def _width(layer: nn.Sequential) -> int:
    return [module for module in layer[-1].modules() if isinstance(module, nn.Conv2d)][-1].out_channels


def _read(path: Path) -> Mapping[str, Tensor]:
    return torch.load(path, map_location="cpu", weights_only=True)


def _name(source: TrunkSource) -> str:
    return source.backbone if source.backbone in models.list_models(module=models) else "ResNet"
