"""What every export starts from, what it hands back, and the numerical check they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mcl.errors import RunFailed, UserError
from mcl.interop.torchvision.resnet_shape import ResnetShape
from mcl.nn.backbone import features_of
from mcl.nn.load_report import LoadReport
from mcl.nn.parts import BODY, LEVELS, pieces_of, prefixes_of
from mcl.nn.trunk import Trunk, TrunkSpec

TOLERANCE = 1e-5


@dataclass(frozen=True)
class TrunkSource:
    """A trunk to export.

    Attributes:
        trunk: in eval mode.
        metadata: of its file (recipe, data fingerprint, cost, ...).
        parts: what is exported.
        origin: the path it came from.
    """

    trunk: Trunk
    metadata: Mapping[str, Any]
    parts: str
    origin: Path

    @property
    def spec(self) -> TrunkSpec:
        """Shape of the trunk."""
        return self.trunk.spec

    @property
    def state(self) -> dict[str, Tensor]:
        """The tensors of ``parts``, under torchvision's names."""
        wanted = prefixes(self.parts)
        return {
            name: tensor.detach()
            for name, tensor in self.trunk.state_dict().items()
            if name.startswith(wanted)
        }

    @property
    def body(self) -> dict[str, Tensor]:
        """The backbone's tensors under their own names (``backbone.body.`` taken away)."""
        return {name.removeprefix(BODY): t for name, t in self.state.items() if name.startswith(BODY)}

    @property
    def backbone(self) -> str:
        """timm name without the tag of its weights."""
        return self.spec.backbone.partition(".")[0]

    @property
    def has_pyramid(self) -> bool:
        """Whether anything of the pyramid is exported."""
        return not {*LEVELS}.isdisjoint(pieces_of(self.parts))

    @property
    def levels(self) -> tuple[str, ...]:
        """Pyramid levels that can be computed from what is exported: those without a gap above them."""
        pieces = set(pieces_of(self.parts))
        return tuple(level for i, level in enumerate(LEVELS) if {*LEVELS[i:]} <= pieces)

    @property
    def has_head(self) -> bool:
        """Whether the head's convolutions are exported."""
        return "head" in pieces_of(self.parts)


@dataclass(frozen=True)
class Exported:
    """Outcome of an export.

    Attributes:
        report: what of the receiving model the files fill.
        differences: name of a map (c2 .. c5, p2 .. p5, ...) -> largest difference, in units of the map's largest value.
        checked_by: who computed the other side.
        companions: further files beside the main one.
        unit: of the differences.
        notes: what the user should know.
    """

    report: LoadReport
    differences: dict[str, float]
    checked_by: str
    companions: tuple[str, ...] = ()
    unit: str = "relative to a map's largest value"
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For the screen."""
        if not self.differences:
            return [*self.report.lines(), *self.notes, f"check: {self.checked_by}"]
        largest = ", ".join(f"{name} {value:.0e}" for name, value in self.differences.items())
        check = f"check: equal through {self.checked_by}; largest differences ({self.unit}): {largest}"
        return [*self.report.lines(), *self.notes, check]


def prefixes(parts: str) -> tuple[str, ...]:
    """Beginnings of the names of the tensors of ``parts``."""
    return prefixes_of(pieces_of(parts))


def probe_images(spec: TrunkSpec, images: int = 2) -> Tensor:
    """Normalised noise of the size the trunk was trained on: (images, 3, S, S), always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(images, 3, spec.image_size, spec.image_size, generator=generator)


@torch.no_grad()
def trunk_maps(source: TrunkSource, images: Tensor) -> dict[str, Tensor]:
    """Every map that the exported parts give: c2..c5, p2..p5, and ``head`` of one window a pyramid image."""
    features = features_of(source.trunk.backbone.body, images)
    maps = {f"c{level + 2}": feature for level, feature in enumerate(features)}
    if source.levels:
        pyramid = source.trunk(images)
        maps |= {level: pyramid[level] for level in source.levels}
    if source.has_head and source.levels:
        maps["head"] = source.trunk.roi_heads.box_head(windows_of(maps[source.levels[0]], source.spec.window))
    return maps


def windows_of(pyramid_map: Tensor, window: int) -> Tensor:
    """The first window of each image: (N, C, h, w) -> (N, C, window, window)."""
    return pyramid_map[:, :, :window, :window]


def compare(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, float]:
    """Largest difference of each map of ``theirs``, in units of our map's largest value.

    Raises:
        RunFailed: a map differs by more than ``TOLERANCE``, in shape, or is not finite.
    """
    differences = {}
    for name, other in theirs.items():
        own = ours[name]
        if own.shape != other.shape:
            raise RunFailed(
                f"export check failed: {name} is {list(own.shape)} here, {list(other.shape)} there; nothing was written"
            )
        differences[name] = float((own - other).abs().max() / own.abs().max().clamp(min=1e-12))
        if not differences[name] <= TOLERANCE:  # also when it is not a number
            raise RunFailed(
                f"export check failed: {name} differs by {differences[name]:.1e} (allowed {TOLERANCE:.0e}); nothing was written"
            )
    return differences


def same_tensors(written: Mapping[str, Tensor], read: Mapping[str, Tensor]) -> None:
    """Raise ``RunFailed`` unless both hold the same names with the same values, bit for bit."""
    wrong = set(written) ^ set(read)
    wrong |= {
        name for name in set(written) & set(read) if not torch.equal(written[name].cpu(), read[name].cpu())
    }
    if wrong:
        raise RunFailed(
            f"export check failed: {len(wrong)} tensors came back changed ({sorted(wrong)[0]}); nothing was written"
        )


def require_receiver(source: TrunkSource, fits: bool, receiver: str, has: str) -> None:
    """Raise ``UserError`` naming the formats that do work, unless the backbone is one of those ``receiver`` has."""
    if fits:
        return
    shape = ResnetShape.of(source.body)
    plain = shape is not None and shape.stem_differs() is None and receiver != "torchvision"
    others = ["torchvision"] * plain + ["timm", "safetensors"]
    raise UserError(
        f"--to {receiver}: it has no {source.backbone}, only {has}; for this trunk use --to {' or --to '.join(others)}"
    )


Writer = Callable[[TrunkSource, Path], Exported]
