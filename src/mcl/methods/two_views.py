"""Methods that compare two full-size views of an image: what MoCo v2, BYOL, DenseCL and SimSiam have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mcl.config.method import MethodSettings
from mcl.config.pretrain import ModelSettings, ViewSettings
from mcl.data.loading.views import ViewSpec, Wanted
from mcl.methods.base import Method, split_batch
from mcl.methods.features import FeatureMaps
from mcl.nn.momentum import make_target, move_target
from mcl.nn.trunk import Trunk

VIEWS = (1, 2)


class TwoViews(Method):
    """An online network, a target network if there is one, and a loss for each map of ``FeatureMaps``.

    A subclass builds heads and computes ``pair_losses``.
    """

    #: whether a slowly moving copy of the online network gives the targets
    has_target = True
    #: losses that ``pair_losses`` gives
    passes = 1

    def __init__(
        self, trunk: Trunk, model: ModelSettings, settings: MethodSettings, seed: int, precision: str = "fp32",
        channels_last: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(trunk, model, settings, seed, precision, channels_last)
        features = FeatureMaps(trunk, settings.parts)
        self.online = nn.ModuleDict({"features": features, **self.build_heads(features.channels)})
        if self.has_target:
            self.target = make_target(self.online)
        self.predictor = nn.ModuleDict(self.build_predictor())

    @abstractmethod
    def build_heads(self, channels: int) -> dict[str, nn.Module]:
        """Heads on maps of so many channels; the target network has them too."""

    def build_predictor(self) -> dict[str, nn.Module]:
        """Heads of the online side only."""
        return {}

    @abstractmethod
    def pair_losses(self, images: Mapping[int, Tensor]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """(loss, numbers to log) ``passes`` times: their sum is the loss of a micro-batch.

        Args:
            images: view -> (N, 3, S, S), normalised.
        """

    @classmethod
    def wanted(cls, settings: MethodSettings, views: ViewSettings, image_size: int) -> Wanted:
        return Wanted(tuple(ViewSpec((view, 1), image_size, style) for style, view in enumerate(VIEWS)))

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

    def losses(
        self, batch: Mapping[str, Any], step: int, micro_batches: int = 1
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        for piece in split_batch(batch, micro_batches):
            images = {view: self.images(piece["views"][view, 1]) for view in VIEWS}
            for loss, numbers in self.pair_losses(images):
                yield loss / micro_batches, numbers

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


class QueuedTwoViews(TwoViews):
    """Two views and queues of keys: those of a step enter after its update, so the loss alone changes no state.

    A subclass appends what a micro-batch's keys are to ``fresh`` and puts them into its queues in ``enter``.
    """

    advice = dict.fromkeys(
        ("collapse_spread", "collapse_rank"), "try a lower --method.temperature or a longer --method.queue"
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fresh: list[Any] = []

    @abstractmethod
    def enter(self, fresh: Sequence[Any]) -> None:
        """Put the keys of a step's micro-batches into the queues."""

    def losses(
        self, batch: Mapping[str, Any], step: int, micro_batches: int = 1
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        self.fresh = []
        yield from super().losses(batch, step, micro_batches)

    def after_update(self, step: int, total_steps: int) -> None:
        move_target(self.target, self.online, self.settings.momentum)
        self.enter(self.fresh)
        self.fresh = []


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
