"""Supervised pre-training on class folders: the yardstick of methods that do without labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcl.config.pretrain import ViewSettings
from mcl.data.computed import Survey
from mcl.data.loading.views import Fields, ViewSpec, Wanted
from mcl.data.sources.pictures import Picture
from mcl.errors import printable
from mcl.methods.base import split_batch
from mcl.methods.class_folders import ClassLabel, class_names
from mcl.methods.health import health_of
from mcl.methods.losses import at_least_fp32, unit
from mcl.methods.online_target import OnlineAndTarget, mean_over_maps
from mcl.methods.supervised.settings import SupervisedSettings

VIEW = (1, 1)
UNKNOWN = 1000  # classes where there are no pictures to ask (bench, doctor): ImageNet's


class Supervised(OnlineAndTarget):
    """One classifier for all maps, as a detector's head has one for all levels."""

    has_target = False

    def build_heads(self, channels: int) -> dict[str, nn.Module]:
        return {"classify": nn.Linear(channels, len(self.settings.classes) or UNKNOWN)}

    @classmethod
    def wanted(cls, settings: SupervisedSettings, views: ViewSettings, image_size: int) -> Wanted:
        # Style 1 is the one with little blur.
        return Wanted((ViewSpec(VIEW, image_size, style=1, crop_scale=settings.crop_scale),))

    @classmethod
    def settle(cls, settings: SupervisedSettings, pictures: Sequence[Picture]) -> SupervisedSettings:
        return settings.model_copy(update={"classes": class_names(pictures, settings.classes)})

    @classmethod
    def fields(cls, settings: SupervisedSettings, survey: Survey) -> Fields:
        return ClassLabel(tuple(settings.classes))

    @classmethod
    def example_batch(cls, settings: SupervisedSettings, *args: Any, **kwargs: Any) -> dict[str, Any]:
        batch = super().example_batch(settings, *args, **kwargs)
        pixels = batch["views"][VIEW]
        labels = torch.arange(len(pixels), device=pixels.device) % (len(settings.classes) or UNKNOWN)
        return {**batch, "fields": {"label": labels}}

    def losses(
        self, batch: Mapping[str, Any], step: int, micro_batches: int = 1
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        for piece in split_batch(batch, micro_batches):
            images = self.images(piece["views"][VIEW])
            labels = piece["fields"]["label"].to(images.device, non_blocking=True)
            with self.autocast():
                pooled = [found.mean(dim=(2, 3)) for found in self.features(images)]
                scores = [at_least_fp32(self.online["classify"](feature)) for feature in pooled]
            rows = []
            for logits in scores:
                loss = F.cross_entropy(logits, labels, label_smoothing=self.settings.label_smoothing)
                rows.append((loss, {"accuracy": (logits.argmax(dim=1) == labels).to(loss.dtype).mean()}))
            loss, numbers = mean_over_maps(self.features.names, rows)
            health = health_of([unit(feature.detach()) for feature in pooled])
            chance = loss.new_tensor(1 / scores[0].shape[1])
            yield loss / micro_batches, {**health, **numbers, "chance": chance}

    def after_update(self, step: int, total_steps: int) -> None:
        """Nothing moves but what the optimizer moved."""

    def notes(self, images: int) -> list[str]:
        names = self.settings.classes
        shown = ", ".join(map(printable, names[:8])) + (", ..." if len(names) > 8 else "")
        return [f"{len(names)} classes: {shown}"] if names else []
