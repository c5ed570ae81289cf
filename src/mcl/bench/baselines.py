"""Pre-training methods of the backbone alone, put together from lightly's parts as its documentation does.

They get the same backbone, images, optimizer and precision as ours. Queues hold 4096 keys, as in lightly's
examples (the papers' 65536 would cost the baselines more).
"""

from __future__ import annotations

import copy
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from mcl.config.bench import BASELINES, BenchSettings
from mcl.engine.optim import apply_gradients, build_optimizer, set_lr
from mcl.errors import UserError
from mcl.nn.backbone import build_backbone, channels_of, features_of
from mcl.randomness import STREAM_WEIGHTS, seeded

QUEUE, SMALL_LR = 4096, 1e-6
MOMENTUM = 0.99


def lightly_parts() -> SimpleNamespace:
    """lightly's heads, losses and helpers.

    Raises:
        UserError: lightly is not installed.
    """
    try:
        from lightly.loss import NegativeCosineSimilarity, NTXentLoss
        from lightly.models import utils
        from lightly.models.modules import heads
    except ImportError as error:
        raise UserError(
            f"--baselines: lightly is not installed ({error}); pip install 'mcl[bench]', or give --baselines []"
        ) from None
    return SimpleNamespace(
        heads=heads, contrastive=NTXentLoss, cosine=NegativeCosineSimilarity, utils=utils
    )  # fmt: skip


class Baseline:
    """What all share: backbone, its momentum copy, optimizer; a subclass adds heads and the loss."""

    def __init__(self, settings: BenchSettings, device: torch.device) -> None:
        self.lightly, self.settings, self.device = lightly_parts(), settings, device
        with seeded(STREAM_WEIGHTS, settings.seed):
            body = build_backbone(settings.model.backbone, settings.image_size)
            width = channels_of(body)[-1]
            online = nn.ModuleDict({"body": body, **self.build_heads(width)})
            extra = nn.ModuleDict(self.build_predictor())
        layout = torch.channels_last if settings.loop.channels_last else torch.contiguous_format
        self.online = online.to(device, memory_format=layout).train()
        self.extra = extra.to(device).train()
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        trained = nn.ModuleList([self.online, self.extra])
        self.optimizer = build_optimizer(trained, settings.optim, settings.batch)
        set_lr(self.optimizer, SMALL_LR)

    def build_heads(self, width: int) -> dict[str, nn.Module]:
        """Heads that have a momentum copy."""
        raise NotImplementedError

    def build_predictor(self) -> dict[str, nn.Module]:
        """Heads of the online side only."""
        return {}

    def loss(self, images_1: Tensor, images_2: Tensor) -> Tensor:
        """The method's loss for two views (N, 3, S, S), normalised."""
        raise NotImplementedError

    def step(self, images_1: Tensor, images_2: Tensor) -> None:
        """One training step: EMA, forward, backward, optimizer."""
        self.lightly.utils.update_momentum(self.online, self.target, MOMENTUM)
        bf16 = self.settings.loop.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            loss = self.loss(images_1, images_2)
        apply_gradients(loss, self.optimizer, self.settings.optim.clip_norm)

    @staticmethod
    def _maps(network: nn.ModuleDict, images: Tensor) -> Tensor:
        return features_of(network["body"], images)[-1]  # (N, C, w, w)


class MoCoV2(Baseline):
    """MoCo v2: a queue of keys; one view through the online network, the other through the momentum one."""

    def build_heads(self, width: int) -> dict[str, nn.Module]:
        """Two-layer projection to 128."""
        self.criterion = self.lightly.contrastive(temperature=0.2, memory_bank_size=(QUEUE, 128))
        return {"project": self.lightly.heads.MoCoProjectionHead(width, width, 128)}

    def loss(self, images_1: Tensor, images_2: Tensor) -> Tensor:
        """Queries of view 1 against keys of view 2 and the queue."""
        query = self.online["project"](self._maps(self.online, images_1).mean(dim=(2, 3)))
        with torch.no_grad():
            shuffled, order = self.lightly.utils.batch_shuffle(images_2)
            key = self.target["project"](self._maps(self.target, shuffled).mean(dim=(2, 3)))
            key = self.lightly.utils.batch_unshuffle(key, order)
        return self.criterion(query, key)


class Byol(Baseline):
    """BYOL; MoCo v3 costs the same: both views through both networks, a predictor, no queue."""

    def build_heads(self, width: int) -> dict[str, nn.Module]:
        """Projection 4096 -> 256."""
        self.criterion = self.lightly.cosine()
        return {"project": self.lightly.heads.BYOLProjectionHead(width, 4096, 256)}

    def build_predictor(self) -> dict[str, nn.Module]:
        """Prediction 4096 -> 256."""
        return {"predict": self.lightly.heads.BYOLPredictionHead(256, 4096, 256)}

    def loss(self, images_1: Tensor, images_2: Tensor) -> Tensor:
        """Each view's prediction against the other view's target."""
        views = (images_1, images_2)
        online = [self.online["project"](self._maps(self.online, view).mean(dim=(2, 3))) for view in views]
        with torch.no_grad():
            targets = [
                self.target["project"](self._maps(self.target, view).mean(dim=(2, 3))) for view in views
            ]
        first, second = (self.extra["predict"](embedding) for embedding in online)
        return 0.5 * (self.criterion(first, targets[1]) + self.criterion(second, targets[0]))


class DenseCl(Baseline):
    """DenseCL: MoCo v2, and the same loss for every cell of the last feature map."""

    def build_heads(self, width: int) -> dict[str, nn.Module]:
        """A projection for images and one for cells."""
        self.criteria = [
            self.lightly.contrastive(temperature=0.2, memory_bank_size=(QUEUE, 128)) for _ in range(2)
        ]
        head = self.lightly.heads.DenseCLProjectionHead
        return {"project": head(width, width, 128), "project_cells": head(width, width, 128)}

    def loss(self, images_1: Tensor, images_2: Tensor) -> Tensor:
        """Mean of the loss of images and the loss of cells, each cell with its most similar one."""
        cells, image, dense = self._encode(self.online, images_1)
        with torch.no_grad():
            shuffled, order = self.lightly.utils.batch_shuffle(images_2)
            keys = [self.lightly.utils.batch_unshuffle(k, order) for k in self._encode(self.target, shuffled)]
            key_cells, key_image, key_dense = keys
            key_dense = self.lightly.utils.select_most_similar(cells, key_cells, key_dense)
        by_image = self.criteria[0](image, key_image)
        by_cell = self.criteria[1](dense.flatten(end_dim=1), key_dense.flatten(end_dim=1))
        return 0.5 * by_image + 0.5 * by_cell

    def _encode(self, network: nn.ModuleDict, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps = self._maps(network, images)
        cells = maps.flatten(start_dim=2).transpose(1, 2)  # (N, C, w, w) -> (N, w * w, C)
        return cells, network["project"](maps.mean(dim=(2, 3))), network["project_cells"](cells)


CLASSES: dict[str, type[Baseline]] = dict(zip(BASELINES, (MoCoV2, Byol, DenseCl), strict=True))
