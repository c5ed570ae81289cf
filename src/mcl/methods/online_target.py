"""What most methods but MCL are made of: an online network on ``FeatureMaps``, a target network if there is one, heads."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mcl.config.method import MethodSettings
from mcl.config.pretrain import ModelSettings
from mcl.methods.base import Method
from mcl.methods.features import FeatureMaps
from mcl.nn.momentum import make_target
from mcl.nn.trunk import Trunk


class OnlineAndTarget(Method):
    """An online network, a target network if there is one, and heads of the online side.

    A subclass builds heads and computes ``losses``.
    """

    #: whether a slowly moving copy of the online network gives the targets
    has_target = True
    #: losses of a micro-batch, one after the other
    passes = 1

    def __init__(
        self, trunk: Trunk, model: ModelSettings, settings: MethodSettings, seed: int, precision: str = "fp32",
        channels_last: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(trunk, model, settings, seed, precision, channels_last)
        features = self.build_features(trunk)
        self.online = nn.ModuleDict({"features": features, **self.build_heads(features.channels)})
        if self.has_target:
            self.target = make_target(self.online)
        self.predictor = nn.ModuleDict(self.build_predictor())

    def build_features(self, trunk: Trunk) -> FeatureMaps:
        """What the online network reads of an image."""
        return FeatureMaps(trunk, self.settings.parts)

    @abstractmethod
    def build_heads(self, channels: int) -> dict[str, nn.Module]:
        """Heads on maps of so many channels; the target network has them too."""

    def build_predictor(self) -> dict[str, nn.Module]:
        """Heads of the online side only."""
        return {}

    @property
    def features(self) -> FeatureMaps:
        """What the online network reads of an image."""
        return self.online["features"]

    @property
    def trunk(self) -> Trunk:
        return self.features.trunk

    @property
    def trunks(self) -> list[Trunk]:
        return [self.trunk, *([self.target["features"].trunk] if self.has_target else [])]

    @property
    def trained(self) -> nn.Module:
        return nn.ModuleDict({"online": self.online, "predictor": self.predictor})

    @property
    def trained_parts(self) -> tuple[str, ...]:
        return self.features.pieces

    def backward_passes(self, micro_batches: int) -> int:
        return micro_batches * self.passes

    def components(self) -> dict[str, list[nn.Module]]:
        found = super().components()
        if not self.features.whole:
            found = {"backbone": found["backbone"]}
        found["heads"] = [*_heads(self.online), *self.predictor.values()]
        if self.has_target:
            pyramid = self.target["features"].trunk.backbone.fpn
            trunk = self.target["features"].trunk
            found["target"] = [
                trunk.backbone.body, *pyramid.inner_blocks, *pyramid.layer_blocks, trunk.roi_heads.box_head,
                *_heads(self.target),
            ]  # fmt: skip
        return found


def mean_over_maps(
    names: Sequence[str], rows: Sequence[tuple[Tensor, Mapping[str, Tensor]]]
) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss, numbers) of every map -> their mean, and ``loss/p5`` ... beside it."""
    numbers: dict[str, Tensor] = {}
    for name, (loss, told) in zip(names, rows, strict=True):
        numbers[f"loss/{name}"] = loss.detach()
        numbers |= {f"{what}/{name}": value for what, value in told.items()}
    return torch.stack([loss for loss, _ in rows]).mean(), numbers


def _heads(network: nn.ModuleDict) -> list[nn.Module]:
    return [module for name, module in network.items() if name != "features"]
