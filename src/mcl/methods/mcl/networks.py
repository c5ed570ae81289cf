"""The networks of MCL, what they make of canvases (embeddings, predictions, targets of tiles), and how these compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from mcl.config.pretrain import ModelSettings
from mcl.errors import UserError
from mcl.methods.base import Method
from mcl.methods.level_encoder import Encoder, Layout, Read
from mcl.methods.level_loss import LevelLoss, contrast, level_weights, regress
from mcl.methods.losses import unit
from mcl.methods.mcl.assignment import gather_targets, target_scales
from mcl.methods.mcl.localise import Localiser
from mcl.methods.mcl.micro_batches import MicroBatch, Targets
from mcl.methods.mcl.regions import RegionHead, Regions
from mcl.methods.mcl.settings import MclSettings
from mcl.methods.mcl.tiles import other_view
from mcl.methods.montage import Shuffle
from mcl.methods.queue import KeyQueue
from mcl.nn.backbone import features_of
from mcl.nn.heads import build_predictor
from mcl.nn.momentum import make_target, momentum_at, move_target
from mcl.nn.pyramid import LEVELS
from mcl.nn.trunk import Trunk
from mcl.nn.vit import PlainVit


class MclNetworks(Method):
    """Online encoder and predictors; the target encoder and queues of targets if the loss has them."""

    def __init__(
        self, trunk: Trunk, model: ModelSettings, settings: MclSettings, seed: int, precision: str = "fp32",
        channels_last: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(trunk, model, settings, seed, precision, channels_last)
        self.scales = tuple(settings.scales)
        self.weights = dict(zip(self.scales, settings.level_weights or level_weights(len(self.scales)), strict=True))
        if trunk.spec.level_of(self.scales[-1]) < 0:
            raise UserError(
                f"--model.finer {trunk.spec.finer}: tiles of scale {self.scales[-1]} would be read below P2; use "
                f"--method.scales '{list(self.scales[: len(LEVELS) - trunk.spec.finer])}', or a smaller --model.finer"
            )
        if settings.layout == "batch":
            require_small_images(trunk, self.scales)
        if settings.attention == "tile":
            require_whole_patches(trunk, self.scales)
        encoder = Encoder(trunk, model.hidden, model.embedding, last_norm=settings.loss != "vicreg", dense=settings.dense_weight > 0, apart=settings.attention == "tile")
        self.online = nn.ModuleDict({"encoder": encoder})
        if settings.has_target:
            self.target = make_target(encoder)
        if settings.predictor:
            predictors = {str(s): build_predictor(model.hidden, model.embedding) for s in self.scales}
            self.online["predictors"] = nn.ModuleDict(predictors)
        if settings.dense_weight:
            self.online["dense_predictor"] = build_predictor(model.hidden, model.embedding)
        if settings.localise:
            self.online["localiser"] = Localiser(trunk.out_channels, trunk.spec.window)
        if settings.regions_weight:
            self.online["regions"] = RegionHead(trunk)
        if settings.queue:
            self.queues = nn.ModuleDict({str(s): KeyQueue(settings.queue, model.embedding) for s in self.target_scales})
        self._fresh: Mapping[int, Targets] = {}  # targets of this step, which go into the queues after it

    @property
    def trunk(self) -> Trunk:
        return self.online["encoder"].trunk

    @property
    def trunks(self) -> list[Trunk]:
        return [self.trunk, *([self.target.trunk] if self.settings.has_target else [])]

    @property
    def trained(self) -> nn.Module:
        return self.online

    @property
    def trained_parts(self) -> tuple[str, ...]:
        levels = LEVELS if self.settings.regions_weight else reversed(self.level_names.values())
        return ("backbone", *levels, "head")

    @property
    def level_names(self) -> dict[int, str]:
        """scale -> the level that its tiles are read from, as logs call it."""
        return {scale: LEVELS[self.trunk.spec.level_of(scale)] for scale in self.scales}

    @property
    def target_scales(self) -> tuple[int, ...]:
        """Scales whose tiles are targets; full-size images always are, for their health is watched."""
        if not self.settings.has_target:
            return self.scales  # the online network embeds them anyway
        asked = {t for s in self.scales for t in target_scales(self.settings.assignment, s, self.scales)}
        return tuple(sorted(asked | {1}))

    def layout(self, shuffle: Shuffle) -> Layout:
        """Canvases of each scale that a shuffle fills."""
        return Layout(self.scales, tuple(len(shuffle.labels[s]) // s**2 for s in self.scales))

    def read_online(self, own: MicroBatch, view: int) -> Read:
        """What the online network makes of one view of a micro-batch."""
        return self._read(self.online["encoder"], own, view, self.scales, own.regions.get(view))

    def predict(self, embeddings: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """scale -> (tiles, E) embeddings, each scale's through its predictor, if there are any; not normalised."""
        if not self.settings.predictor:
            return dict(embeddings)
        return {scale: self.online["predictors"][str(scale)](e) for scale, e in embeddings.items()}

    @torch.no_grad()
    def read_target(self, own: MicroBatch, view: int) -> Read:
        """What the target network makes of one view, as far as the assignment asks; embeddings L2-normalised."""
        settings, wanted = self.settings, self.target_scales
        if wanted == (1,) and settings.layout != "batch" and settings.encode == "matched":
            layout, seen = self.layout(own.shuffles[view]), own.canvases[view]
            full_size, only = layout.slice_of(1), settings.target_canvases == "full"
            maps = self.target.map_of_top(seen[full_size]) if only else self.target.map_of_top(seen, layout)
            read = self.target.read({1: maps})
            read = Read({}, {1: read.cells[1][full_size]}, {1: read.embeddings[1][full_size]})
        else:
            read = self._read(self.target, own, view, wanted)
        return replace(read, embeddings={scale: unit(e) for scale, e in read.embeddings.items()})

    def _read(
        self, encoder: Encoder, own: MicroBatch, view: int, scales: Sequence[int], regions: Regions | None = None
    ) -> Read:
        seen, layout = own.canvases[view], self.layout(own.shuffles[view])
        if self.settings.layout == "batch":
            return encoder.read(encoder.maps_stacked(seen, scales))
        if self.settings.encode == "exhaustive":
            everything = encoder.encode_exhaustive(seen, layout)
            return Read({}, {}, {s: own_windows(e, layout, s) for s, e in everything.items() if s in scales})
        features = encoder.features(seen, layout)
        read = encoder.read(encoder.matched(features, layout, scales), own.boxes.get(view))
        return replace(read, whole=encoder.whole_maps(features, layout, regions.images)) if regions else read

    @torch.no_grad()
    def dense_targets(self, read: Read) -> Tensor:
        """(images, E, w, w): what the target network says of every cell of the full-size images."""
        return self.target.project_cells({1: read.cells[1]})[1]

    def dense_predictions(self, read: Read) -> dict[int, Tensor]:
        """scale -> (tiles, E, w, w): the online network's prediction for every cell of every tile."""
        predict, found = self.online["dense_predictor"], {}
        for scale, projected in self.online["encoder"].project_cells(read.cells).items():
            rows = predict(projected.permute(0, 2, 3, 1).flatten(0, 2))
            found[scale] = rows.unflatten(0, (-1, *projected.shape[2:])).permute(0, 3, 1, 2)
        return found

    def after_update(self, step: int, total_steps: int) -> None:
        if self.settings.has_target:
            momentum = momentum_at(step, total_steps, self.settings.momentum)
            move_target(self.target, self.online["encoder"], momentum)
        if self.settings.queue:
            for scale in self.target_scales:
                self.queues[str(scale)].push(torch.cat([found.embeddings[scale] for found in self._fresh.values()]))
        self._fresh = {}

    def compare(
        self,
        own: MicroBatch,
        predictions: Mapping[int, Mapping[int, Tensor]],
        targets: Mapping[int, Targets],
        classes: Tensor | None = None,
    ) -> dict[tuple[int, int], LevelLoss]:
        """(view, scale) -> loss of a micro-batch's predictions, view -> scale -> (tiles, E), against the other view's targets."""
        levels, settings = {}, self.settings
        for view, of_view in predictions.items():
            for scale in self.scales:
                embeddings, target_labels = self.compared_with(targets[other_view(view)], scale)
                labels = own.labels(view, scale).to(embeddings.device, non_blocking=True)
                labels = labels if classes is None else classes[labels]
                compared, weight = (of_view[scale], labels, embeddings, target_labels), self.weights[scale]
                levels[view, scale] = (
                    contrast(*compared, settings.temperature, weight)
                    if settings.loss == "infonce"
                    else regress(*compared, settings.loss, weight)
                )
        return levels

    def compared_with(self, targets: Targets, scale: int) -> tuple[Tensor, Tensor]:
        """(M, E) targets that tiles of ``scale`` are compared with, and the label of each: -1 for those of the queue."""
        scales = target_scales(self.settings.assignment, scale, self.scales)
        embeddings, labels = gather_targets(targets.embeddings, targets.labels, scales)
        if not self.settings.queue:
            return embeddings, labels
        queued = torch.cat([self.queues[str(s)].keys.to(embeddings.dtype) for s in scales])
        return torch.cat([embeddings, queued]), torch.cat([labels, labels.new_full((len(queued),), -1)])

    def components(self) -> dict[str, list[nn.Module]]:
        found = super().components() | {"projector": [self.online["encoder"].projector]}
        if self.settings.predictor:
            found["predictors"] = list(self.online["predictors"].values())
        if self.settings.dense_weight:
            found["dense"] = [self.online["encoder"].dense_projector, self.online["dense_predictor"]]
        if self.settings.localise:
            localiser = self.online["localiser"]
            found["localiser"] = [localiser.rpn["head"], localiser.box_pred]
        if self.settings.regions_weight:
            head = self.online["regions"]
            found["regions"] = [head.rpn["head"], head.box_pred]
        if self.settings.has_target:
            trunk, pyramid = self.target.trunk, self.target.trunk.backbone.fpn
            found["target"] = [
                trunk.backbone.body, *pyramid.inner_blocks, *pyramid.layer_blocks, trunk.roi_heads.box_head,
                self.target.projector, *([self.target.dense_projector] if self.settings.dense_weight else []),
            ]  # fmt: skip
        return found


def own_windows(embeddings: Tensor, layout: Layout, scale: int) -> Tensor:
    """Of all canvases' windows on a scale's level, those of the scale's own montages: (B * s^2, E) -> (b * s^2, E)."""
    own = layout.slice_of(scale)
    return embeddings[own.start * scale**2 : own.stop * scale**2]


def require_whole_patches(trunk: Trunk, scales: Sequence[int]) -> None:
    """Raise ``UserError`` unless attention can be kept inside tiles: a plain transformer, no patch with parts of two tiles."""
    size, body = trunk.spec.image_size, trunk.backbone.body
    if not isinstance(body, PlainVit):
        raise UserError(
            f"--method.attention tile: {trunk.spec.backbone} is no plain transformer, its cells see their neighbours by "
            "other means; --method.layout batch keeps tiles apart in every network"
        )
    if size // max(scales) % body.stride:
        raise UserError(
            f"--method.attention tile: tiles of {size // max(scales)} px do not hold whole patches of {body.stride} px; use a "
            f"multiple of {max(scales) * body.stride} as --image_size, a smaller --model.patch_size, or fewer --method.scales"
        )


@torch.no_grad()
def require_small_images(trunk: Trunk, scales: Sequence[int]) -> None:
    """Raise ``UserError`` unless a backbone takes tiles as images of their own, and gives a window of cells for each."""
    size, body = trunk.spec.image_size, trunk.backbone.body.eval()
    try:
        for scale in scales:
            if isinstance(body, PlainVit):
                if size // scale % body.stride:
                    raise ValueError(f"patches are {body.stride} px")
                continue
            pixels = next(body.parameters()).new_zeros(1, 3, size // scale, size // scale)
            side = features_of(body, pixels)[trunk.spec.level_of(scale)].shape[-1]
            if side != trunk.spec.window:
                raise ValueError(f"{side} cells a side where a window has {trunk.spec.window}")
    except (ValueError, RuntimeError, AssertionError) as error:
        why = " ".join(str(error).split())[:100]
        raise UserError(
            f"--method.layout batch: {trunk.spec.backbone} cannot take images of {size // scale} px ({why}); "
            "use --method.layout montage, or fewer --method.scales"
        ) from None
    finally:
        body.train()
