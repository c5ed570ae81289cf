"""What an export starts from: a trunk, or a whole detector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mcl.nn.backbone import features_of, names_of
from mcl.nn.parts import BODY, LEVELS, pieces_of, prefixes_of
from mcl.nn.trunk import Trunk, TrunkSpec


@dataclass(frozen=True)
class TrunkSource:
    """A trunk to export.

    Attributes:
        trunk: in eval mode.
        metadata: of its file (recipe, data fingerprint, cost, ...).
        parts: what is exported.
        origin: the path it came from.
        roi_size: side in cells of the windows that its head knows; None: of the windows of pre-training.
    """

    trunk: Trunk
    metadata: Mapping[str, Any]
    parts: str
    origin: Path
    roi_size: int | None = None

    @cached_property
    def maps(self) -> dict[str, Tensor]:
        """See ``trunk_maps``."""
        return trunk_maps(self)

    @property
    def spec(self) -> TrunkSpec:
        """Shape of the trunk."""
        return self.trunk.spec

    @property
    def window(self) -> int:
        """Side in cells of the head's windows, which the receiver's RoI pooling must give."""
        return self.roi_size or max(1, self.spec.window)

    @property
    def state(self) -> dict[str, Tensor]:
        """The tensors of ``parts``, under torchvision's names."""
        wanted = prefixes_of(pieces_of(self.parts))
        tensors = self.trunk.state_dict().items()
        return {name: tensor.detach() for name, tensor in tensors if name.startswith(wanted)}

    @property
    def body(self) -> dict[str, Tensor]:
        """The backbone's tensors under their own names (``backbone.body.`` taken away)."""
        return {name.removeprefix(BODY): t for name, t in self.state.items() if name.startswith(BODY)}

    @property
    def backbone(self) -> str:
        """timm name without the tag of its weights."""
        return self.spec.backbone.partition(".")[0]

    @property
    def levels(self) -> tuple[str, ...]:
        """Pyramid levels that can be computed from what is exported: those without a gap above them."""
        pieces = pieces_of(self.parts)
        return tuple(level for i, level in enumerate(LEVELS) if set(LEVELS[i:]) <= set(pieces))

    @property
    def has_pyramid(self) -> bool:
        """Whether anything of the pyramid is exported."""
        return any(level in pieces_of(self.parts) for level in LEVELS)

    @property
    def has_head(self) -> bool:
        """Whether the head's convolutions are exported."""
        return "head" in pieces_of(self.parts)


@dataclass(frozen=True)
class DetectorSource:
    """A whole fine-tuned detector to export.

    Attributes:
        detector: in eval mode.
        plan: its ``DetectorPlan`` (class names, sizes, settings of testing).
        origin: the path it came from.
    """

    detector: nn.Module
    plan: Any
    origin: Path

    @property
    def spec(self) -> TrunkSpec:
        """Shape of its trunk."""
        return self.plan.spec


def probe_images(spec: TrunkSpec, images: int = 2) -> Tensor:
    """Normalised noise of the size the trunk was trained on: (images, 3, S, S), always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(images, 3, spec.image_size, spec.image_size, generator=generator)


def probe_windows(source: TrunkSource, windows: int = 2) -> Tensor:
    """Noise of the size of the head's windows: (windows, C, w, w), always the same."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(
        windows, source.spec.pyramid_channels, source.window, source.window, generator=generator
    )


@torch.no_grad()
def trunk_maps(source: TrunkSource) -> dict[str, Tensor]:
    """Every map that the exported parts give: c2..c5 (of a plain transformer its one), p2..p5 of ``probe_images``, ``head``
    of ``probe_windows``."""
    images = probe_images(source.spec)
    features = features_of(source.trunk.backbone.body, images)
    maps = dict(zip(names_of(source.trunk.backbone.body), features, strict=True))
    if source.levels:
        pyramid = source.trunk(images)
        maps |= {level: pyramid[level] for level in source.levels}
    if source.has_head:
        maps["head"] = source.trunk.roi_heads.box_head(probe_windows(source))
    return maps
