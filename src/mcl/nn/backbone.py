"""Any timm backbone with features at strides 4, 8, 16 and 32, or a plain vision transformer, which has one map."""

from __future__ import annotations

import timm
from timm.models import FeatureListNet
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from mcl.errors import UserError, did_you_mean
from mcl.nn.vit import PlainVit, VitForm, build_vit, is_plain_vit

STRIDES = (4, 8, 16, 32)
AS_NAMED = VitForm()


def build_backbone(
    name: str, image_size: int, pretrained: bool = False, form: VitForm = AS_NAMED, drop_path: float = 0.0
) -> FeatureListNet | PlainVit:
    """A timm network that returns C2..C5, or a plain transformer's last map.

    ResNets get the method's initialisation (Kaiming normal, fan in; last norm of a block not at zero), other
    families timm's own. State-dict names are timm's, for ResNets also torchvision's.

    Args:
        name: timm model name, e.g. ``resnet50``.
        image_size: side of the training images in pixels (only transformers need it).
        pretrained: load timm's default weights (downloads them).
        form: of a plain transformer.
        drop_path: share of images whose residual branches are left out in training, at the last block (rising linearly).

    Raises:
        UserError: unknown name, a network without features at strides 4, 8, 16, 32 that is no plain transformer, or a
            setting that the network does not have.
    """
    if not timm.is_model(name):
        raise UserError(
            f"--model.backbone: timm has no model {name!r}{did_you_mean(name, timm.list_models())}"
        )
    if is_plain_vit(name):
        return build_vit(name, image_size, pretrained, form, drop_path)
    if form != AS_NAMED:
        raise UserError(
            f"--model.backbone {name}: it is no plain transformer, so it has no patch_size, attention_window or global_blocks"
        )
    network, rate = None, {"drop_path_rate": drop_path} if drop_path else {}
    for extra in ({"img_size": image_size} | rate, {"zero_init_last": False} | rate, rate):
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


def channels_of(network: FeatureListNet | PlainVit) -> list[int]:
    """Channels of C2..C5, or of a plain transformer's one map."""
    if isinstance(network, PlainVit):
        return [network.channels]
    return list(network.feature_info.channels())


def names_of(network: FeatureListNet | PlainVit) -> list[str]:
    """``c2`` .. ``c5``, or ``c4`` alone for a plain transformer of patches of 16 px."""
    strides = [network.stride] if isinstance(network, PlainVit) else STRIDES
    return [f"c{stride.bit_length() - 1}" for stride in strides]


def features_of(network: FeatureListNet | PlainVit, images: Tensor, tiles: int = 1) -> list[Tensor]:
    """(N, 3, S, S) -> [C2, C3, C4, C5], each (N, C_i, S / stride, S / stride) whatever the family's own layout.

    A plain transformer gives one map. Only there ``tiles`` may be more than 1: the canvases' s x s tiles then see nothing
    of each other.
    """
    if isinstance(network, PlainVit):
        return [network(images, tiles).maps]
    features = network(images)
    layout = getattr(network, "output_fmt", None)  # EfficientNet and MobileNet have none: always NCHW
    if layout is not None and layout.value == "NHWC":
        return [feature.permute(0, 3, 1, 2) for feature in features]
    return features


def _init_resnet(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
