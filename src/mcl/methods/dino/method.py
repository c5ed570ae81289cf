"""DINO (arXiv 2104.14294)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightly.models.modules.heads import DINOProjectionHead
from torch import Tensor, nn

from mcl.config.pretrain import ViewSettings
from mcl.data.loading.views import ViewSpec, Wanted
from mcl.engine.processes.distributed import all_reduce_mean, rank
from mcl.errors import UserError
from mcl.methods.base import split_batch
from mcl.methods.dino.loss import LastLayer, cross_entropies, entropy, sharpened
from mcl.methods.dino.settings import DinoSettings
from mcl.methods.health import health_of
from mcl.methods.image_vectors import ImageVectors
from mcl.methods.losses import unit
from mcl.methods.montage import Shuffle, draw_permutation, first_places, lay, shuffle_from
from mcl.methods.online_target import OnlineAndTarget, mean_over_maps
from mcl.methods.views_picture import draw_views
from mcl.nn.momentum import momentum_at, move_target
from mcl.nn.trunk import Trunk
from mcl.nn.vit import PlainVit
from mcl.randomness import STREAM_MONTAGE, generator_for

LARGE = (1, 2)  # views that the teacher sees
PAPER_SIZES = (96, 224)  # of small and large crops
SMALL_BATCH = 256  # below, the authors advise a slower teacher


class Dino(OnlineAndTarget):
    """One head and one last layer for all maps; each map has a centre of its own."""

    advice = dict.fromkeys(
        ("collapse_spread", "collapse_rank"),
        "try a lower --method.teacher_temperature, fewer --method.prototypes, a longer --method.freeze or a lower --optim.lr",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        maps = len(self.features.names)
        self.register_buffer("center", torch.zeros(maps, self.settings.prototypes))
        self.register_buffer("progress", torch.zeros(()))  # share of the steps that are done
        self._outputs: list[Tensor] = []  # (maps, K), means of the teacher's outputs of each micro-batch of this step

    @classmethod
    def wanted(cls, settings: DinoSettings, views: ViewSettings, image_size: int) -> Wanted:
        small = settings.small_size or max(32, 32 * round(image_size * PAPER_SIZES[0] / PAPER_SIZES[1] / 32))
        if settings.layout == "montage":
            small = image_size // settings.scale
        large = [ViewSpec((view, 1), image_size, style, settings.large_crops) for style, view in enumerate(LARGE)]
        first = LARGE[-1] + 1
        rest = [ViewSpec((first + i, 1), small, 1, settings.small_crops) for i in range(settings.small)]
        return Wanted((*large, *rest))

    def build_features(self, trunk: Trunk) -> ImageVectors:
        settings, body = self.settings, trunk.backbone.body
        plain = isinstance(body, PlainVit)
        self.head_norm = not plain if settings.head_norm is None else settings.head_norm
        apart = plain and settings.layout == "montage" and settings.attention == "tile"
        if apart and trunk.spec.image_size // settings.scale % body.stride:
            raise UserError(
                f"--method.attention tile: tiles of {trunk.spec.image_size // settings.scale} px do not hold whole patches of "
                f"{body.stride} px; use another --image_size, --method.scale or --model.patch_size"
            )
        return ImageVectors(trunk, settings.parts, apart)

    def build_heads(self, channels: int) -> dict[str, nn.Module]:
        settings = self.settings
        head = DINOProjectionHead(channels, settings.hidden, settings.bottleneck, 1, batch_norm=self.head_norm)
        return {"project": head.layers, "last": LastLayer(settings.bottleneck, settings.prototypes)}

    def losses(
        self, batch: Mapping[str, Any], step: int, micro_batches: int = 1
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        self._outputs = []
        for number, piece in enumerate(split_batch(batch, micro_batches)):
            views = piece["views"]
            with torch.no_grad():
                said = self._heads(self.target, self._large(self.target, views), torch.tensor(False))
            self._outputs.append(torch.stack([torch.stack([of_view[view] for view in LARGE]).mean(dim=(0, 1)) for of_view in said]))
            fixed = self.progress < self.settings.freeze
            seen = self._large(self.online, views)
            for of_map, small in zip(seen, self._small(views, step, rank() * micro_batches + number), strict=True):
                of_map |= small
            students = self._heads(self.online, seen, fixed)
            temperature, rows, given = self.teacher_temperature(), [], []
            for place, (student, teacher) in enumerate(zip(students, said, strict=True)):
                targets = {view: sharpened(teacher[view], self.center[place], temperature) for view in LARGE}
                loss = cross_entropies(student, targets, self.settings.student_temperature)
                given += targets.values()
                rows.append((loss, {"teacher_entropy": entropy(torch.cat(list(targets.values())))}))
            loss, numbers = mean_over_maps(self.features.names, rows)
            health = health_of([unit(probabilities) for probabilities in given])  # alike for all images: collapsed
            yield loss / micro_batches, {**health, **numbers, "teacher_temperature": temperature}

    def after_update(self, step: int, total_steps: int) -> None:
        move_target(self.target, self.online, momentum_at(step, total_steps, self.settings.momentum))
        if self._outputs:
            mean = all_reduce_mean(torch.stack(self._outputs).mean(dim=0)).to(self.center.dtype)
            self.center.lerp_(mean, 1 - self.settings.center_momentum)
        self.progress.fill_((step + 1) / total_steps)
        self._outputs = []

    def teacher_temperature(self) -> Tensor:
        """0-d: rises from ``teacher_start`` over the first ``teacher_warmup`` of the steps."""
        first, last = self.settings.teacher_start, self.settings.teacher_temperature
        risen = (self.progress / max(self.settings.teacher_warmup, 1e-9)).clamp(max=1)
        return first + (last - first) * risen

    def notes(self, images: int) -> list[str]:
        settings, lines = self.settings, []
        if settings.layout == "montage":
            count = self._canvases(images)
            lines.append(f"small crops lie on {settings.small} x {count} canvases of {settings.scale} x {settings.scale} tiles")
            if spare := count * settings.scale**2 - images:
                lines.append(f"{images} images do not fill whole canvases: {spare} tiles of each repeat others and do not count")
        if images < SMALL_BATCH and settings.momentum < 0.999:
            lines.append(f"{images} images a step are few for DINO: a slower teacher and centre (--method.momentum 0.9995, "
                         "--method.center_momentum 0.99) make long runs steadier")  # fmt: skip
        return lines

    def draw_first_batch(self, folder: Path, batch: Mapping[str, Any]) -> Path:
        if self.settings.layout == "crops":
            return super().draw_first_batch(folder, batch)
        views = {key: pixels for key, pixels in batch["views"].items() if key[0] in LARGE}
        shuffle = self._shuffle(len(batch["index"]), 0, LARGE[-1] + 1, 0)
        canvases = lay(batch["views"][LARGE[-1] + 1, 1], shuffle.labels[self.settings.scale], self.settings.scale)
        return draw_views(folder / "views.png", {**views, (LARGE[-1] + 1, 1): canvases})

    def _large(self, network: nn.ModuleDict, views: Mapping[tuple[int, int], Tensor]) -> list[dict[int, Tensor]]:
        """Of each map: large view -> (n, C)."""
        with self.autocast():
            found = network["features"](self.images(torch.cat([views[view, 1] for view in LARGE])))
        return [dict(zip(LARGE, of_map.chunk(len(LARGE)), strict=True)) for of_map in found]

    def _small(self, views: Mapping[tuple[int, int], Tensor], step: int, number: int) -> list[dict[int, Tensor]]:
        """Of each map: small view -> (n, C), in the order of images; all small views go through the network together."""
        small, scale = [view for view, _ in views if view not in LARGE], self.settings.scale
        if not small:
            return [{} for _ in self.features.names]
        if self.settings.layout == "crops":
            with self.autocast():
                found = self.features(self.images(torch.cat([views[view, 1] for view in small])))
            return [dict(zip(small, of_map.chunk(len(small)), strict=True)) for of_map in found]
        images = len(views[small[0], 1])
        labels = {view: self._shuffle(images, step, view, number).labels[scale] for view in small}
        canvases = torch.cat([lay(views[view, 1], labels[view], scale) for view in small])
        with self.autocast():
            found = self.features(self.images(canvases), scale)
        order = {view: first_places(labels[view], images) for view in small}
        parts = [dict(zip(small, of_map.chunk(len(small)), strict=True)) for of_map in found]
        return [{view: of_view[order[view].to(of_view.device, non_blocking=True)] for view, of_view in part.items()} for part in parts]

    def _shuffle(self, images: int, step: int, view: int, number: int) -> Shuffle:
        """Which image is on which tile, a function of (seed, step, micro-batch, view, scale); every image once or more."""
        scale, count = self.settings.scale, self._canvases(images)
        generator = generator_for(STREAM_MONTAGE, self.seed, step, number, view, scale)
        return shuffle_from({scale: draw_permutation(scale, count, generator)}, images)

    def _canvases(self, images: int) -> int:
        """Canvases that hold every image once."""
        return -(-images // self.settings.scale**2)

    def _heads(
        self, network: nn.ModuleDict, seen: Sequence[Mapping[int, Tensor]], fixed: Tensor
    ) -> list[dict[int, Tensor]]:
        """Of each map: view -> (n, K) outputs."""
        outputs = []
        for of_map in seen:
            counts = [len(found) for found in of_map.values()]
            with self.autocast():
                narrow = unit(network["project"](torch.cat(list(of_map.values()))))
                said = network["last"](narrow, fixed.to(narrow.device, non_blocking=True))
            outputs.append(dict(zip(of_map, said.split(counts), strict=True)))
        return outputs
