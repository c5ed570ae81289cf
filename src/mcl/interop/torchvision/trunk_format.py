"""torchvision: state dict of a Mask/Faster R-CNN in v2 form."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision.models as models
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.rpn import RPNHead

from mcl.interop.torchvision import resnet_format
from mcl.interop.torchvision.resnet_format import LAYERS, read_state, resnet_receiver
from mcl.interop.torchvision.resnet_shape import ResnetShape
from mcl.interop.writing.exported import Exported, compare, require_same_backbone, same_tensors
from mcl.interop.writing.source import TrunkSource, probe_images, probe_windows
from mcl.nn.load_report import match
from mcl.nn.parts import pieces_of, prefixes_of


def companions(out: Path) -> tuple[str, ...]:
    """None."""
    return ()


def fit(source: TrunkSource) -> Exported:
    """Compare the trunk with torchvision's detector that takes its weights; a backbone alone with its ResNet.

    Raises:
        Unfit: the backbone is none of torchvision's ResNets.
        RunFailed: pyramid or head differ.
    """
    if source.parts == "backbone":
        return resnet_format.fit(source)
    resnet, _ = resnet_receiver(source)
    receiver, built = rcnn_receiver(source, resnet)
    # Of the box head only its convolutions: its linear layers are not ours.
    wanted = prefixes_of(pieces_of(source.parts), source.spec.head_convs)
    fits, report = match(receiver.state_dict(), source.state, wanted)
    report.require_complete("export", allow_partial=False)
    receiver.load_state_dict(fits, strict=False)
    ours, maps = source.maps, rcnn_maps(receiver.eval(), source)
    require_same_backbone(ours, maps, source.backbone, "its ResNet")
    return Exported(report, compare(ours, maps), f"torchvision's {built}")


def write(source: TrunkSource, path: Path) -> Exported:
    """Write backbone, pyramid and box-head convolutions for ``maskrcnn_resnet50_fpn_v2`` (``strict=False``).

    Other depths and widths are for a ``MaskRCNN`` of the same form (``rcnn_receiver`` builds it); a backbone alone is
    for a ResNet.

    Raises:
        Unfit, RunFailed: see ``fit``; or the file does not read back the same.
    """
    done = fit(source)
    tensors = source.body if source.parts == "backbone" else source.state
    torch.save(tensors, path)
    same_tensors(tensors, read_state(path))
    return done


def rcnn_receiver(source: TrunkSource, resnet: models.ResNet) -> tuple[MaskRCNN, str]:
    """torchvision's ``maskrcnn_resnet50_fpn_v2`` where it fits, else a ``MaskRCNN`` of its public parts; and its name."""
    channels, convs, shape = source.spec.pyramid_channels, source.spec.head_convs, ResnetShape.of(source.body)
    if (shape.name, channels, convs) == ("resnet50", 256, 4):
        return maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None), "maskrcnn_resnet50_fpn_v2"
    backbone = BackboneWithFPN(
        resnet, {layer: str(i) for i, layer in enumerate(LAYERS)}, shape.widths, channels, norm_layer=nn.BatchNorm2d
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
def rcnn_maps(detector: MaskRCNN, source: TrunkSource) -> dict[str, Tensor]:
    """The maps of the exported parts, through torchvision's detector."""
    images = probe_images(source.spec)
    maps = {f"c{int(key) + 2}": value for key, value in detector.backbone.body(images).items()}
    if source.levels:
        levels = {f"p{int(key) + 2}": value for key, value in detector.backbone(images).items() if key != "pool"}
        maps |= {level: levels[level] for level in source.levels}
    if source.has_head:
        convs = list(detector.roi_heads.box_head.children())[: source.spec.head_convs]
        maps["head"] = nn.Sequential(*convs)(probe_windows(source))
    return maps
