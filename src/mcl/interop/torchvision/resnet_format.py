"""torchvision: state dict of a ResNet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torchvision.models as models
from torch import Tensor

from mcl.interop.torchvision.resnet_shape import plain_shape
from mcl.interop.writing.exported import Exported, Unfit, compare, require_same_backbone, same_tensors
from mcl.interop.writing.source import TrunkSource, probe_images
from mcl.nn.load_report import match

LAYERS = ("layer1", "layer2", "layer3", "layer4")


def companions(out: Path) -> tuple[str, ...]:
    """None."""
    return ()


def fit(source: TrunkSource) -> Exported:
    """Compare the backbone with torchvision's network that takes its weights.

    Raises:
        Unfit: it is none of torchvision's ResNets.
    """
    receiver, name = resnet_receiver(source)
    wanted = receiver.state_dict()
    kept = tuple(key for key in wanted if not key.startswith("fc."))
    fits, report = match(wanted, source.body, kept)
    report.require_complete("export", allow_partial=False)
    receiver.load_state_dict(fits, strict=False)
    maps = resnet_maps(receiver.eval(), probe_images(source.spec))
    ours = source.maps
    require_same_backbone(ours, maps, source.backbone, f"its {name}")
    return Exported(report, compare(ours, maps), f"torchvision's {name}")


def write(source: TrunkSource, path: Path) -> Exported:
    """Write the backbone for ``torchvision.models.resnet50().load_state_dict(..., strict=False)``: only fc is missing.

    Raises:
        Unfit: see ``fit``.
        RunFailed: the file does not read back the same.
    """
    done = fit(source)
    torch.save(source.body, path)
    same_tensors(source.body, read_state(path))
    return done


def resnet_receiver(source: TrunkSource) -> tuple[models.ResNet, str]:
    """torchvision's own network for this backbone, and its name: by name, else its ``ResNet`` class with the same blocks.

    Raises:
        Unfit: it has none with these names and shapes.
    """
    shape = plain_shape(source.body)
    if shape is None:
        raise Unfit(f"it has no {source.backbone}, only ResNets")
    if shape.name in models.list_models(module=models):
        return models.get_model(shape.name, weights=None), shape.name
    return shape.build(), "ResNet"


@torch.no_grad()
def resnet_maps(network: models.ResNet, images: Tensor) -> dict[str, Tensor]:
    """c2 .. c5 of torchvision's ResNet."""
    x = network.maxpool(network.relu(network.bn1(network.conv1(images))))
    maps = {}
    for level, layer in enumerate(LAYERS):
        x = getattr(network, layer)(x)
        maps[f"c{level + 2}"] = x
    return maps


def read_state(path: Path) -> Mapping[str, Tensor]:
    """A state dict that was written here."""
    return torch.load(path, map_location="cpu", weights_only=True)
