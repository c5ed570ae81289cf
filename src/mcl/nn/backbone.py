"""Any timm backbone with features at strides 4, 8, 16 and 32."""

from __future__ import annotations

import timm
from timm.models import FeatureListNet
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from mcl.errors import UserError, did_you_mean

STRIDES = (4, 8, 16, 32)


def build_backbone(name: str, image_size: int, pretrained: bool = False) -> FeatureListNet:
    """A timm network that returns C2..C5.

    ResNets get the method's initialisation (Kaiming normal, fan in; last norm of a block not at zero), other
    families timm's own. State-dict names are timm's, for ResNets also torchvision's.

    Args:
        name: timm model name, e.g. ``resnet50``.
        image_size: side of the training images in pixels (only fixed-size transformers need it).
        pretrained: load timm's default weights (downloads them).

    Raises:
        UserError: unknown name, or a network without features at strides 4, 8, 16, 32.
    """
    if not timm.is_model(name):
        raise UserError(
            f"--model.backbone: timm has no model {name!r}{did_you_mean(name, timm.list_models())}"
        )
    network = None
    for extra in ({"img_size": image_size}, {"zero_init_last": False}, {}):
        try:
            network = timm.create_model(name, features_only=True, pretrained=pretrained, **extra)
            break
        except (TypeError, RuntimeError, AttributeError) as error:
            failure = error  # not every family takes every argument
    if network is None:
        raise UserError(f"--model.backbone {name}: timm cannot give its features: {failure}")
    strides = network.feature_info.reduction()
    missing = [stride for stride in STRIDES if stride not in strides]
    if missing:
        raise UserError(
            f"--model.backbone {name}: has features at strides {strides}, the pyramid needs {list(STRIDES)}"
        )
    keep = tuple(strides.index(stride) for stride in STRIDES)
    if keep != tuple(range(len(strides))):
        network = timm.create_model(
            name, features_only=True, pretrained=pretrained, out_indices=keep, **extra
        )
    if not pretrained and any(isinstance(module, BasicBlock | Bottleneck) for module in network.modules()):
        _init_resnet(network)
    return network


def channels_of(network: FeatureListNet) -> list[int]:
    """Channels of C2..C5."""
    return list(network.feature_info.channels())


def features_of(network: FeatureListNet, images: Tensor) -> list[Tensor]:
    """(N, 3, S, S) -> [C2, C3, C4, C5], each (N, C_i, S / stride, S / stride) whatever the family's own layout."""
    features = network(images)
    layout = getattr(network, "output_fmt", None)  # EfficientNet and MobileNet have none: always NCHW
    if layout is not None and layout.value == "NHWC":
        return [feature.permute(0, 3, 1, 2) for feature in features]
    return features


def _init_resnet(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
