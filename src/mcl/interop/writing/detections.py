"""Whether two forms of a detector find the same: the check of exports of whole detectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from mcl.errors import RunFailed

# Scores and boxes go through exp and a resize; single precision in another order of operations moves them this much.
TOLERANCES = {"boxes": 1e-2, "labels": 0.0, "scores": 1e-4, "masks": 1e-3}
UNIT = "boxes in pixels"


def compare_detectors(
    detector: nn.Module, other: Callable[[Tensor], Mapping[str, Tensor]], size: int
) -> tuple[dict[str, float], str]:
    """Compare detections on three images, and say on how many.

    Args:
        detector: in eval mode.
        other: its other form: (3, H, W) in 0..1 -> ``boxes`` (n, 4) in pixels, ``labels``, ``scores``[, ``masks``].
        size: about the side of the images.

    Returns:
        Largest differences, and what was compared in words.

    Raises:
        RunFailed: more than one detection in fifty differs.
    """
    differences: dict[str, float] = {}
    compared = 0
    for image in _three_images(detector, size):
        with torch.no_grad():
            compared += _compare_detections(detector([image])[0], other(image), differences)
    return differences, f"three images, {compared} detections"


@torch.no_grad()
def _three_images(detector: nn.Module, size: int) -> list[Tensor]:
    """Three images of different shape, (3, H, W) in 0..1: coloured blobs, those with most detections of a few."""
    generator = torch.Generator().manual_seed(1)
    images = []
    for shape in ((size, size), (size, max(32, size * 3 // 4)), (max(32, size * 5 // 8), size)):
        blobs = [torch.rand(1, 3, cells, cells, generator=generator) for cells in (3, 6, 12)]
        tried = [torch.nn.functional.interpolate(blob, shape, mode="bilinear")[0] for blob in blobs]
        images.append(max(tried, key=lambda image: len(detector([image])[0]["scores"])))
    return images


def _compare_detections(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], differences: dict[str, float]
) -> int:
    """Match each detection with the nearest of the same label; nearly all must have one.

    A detection on the threshold, or one of two of equal score, may fall out on one side alone: one in fifty may.
    """
    count = len(ours["scores"])
    if abs(count - len(theirs["scores"])) > max(1, count // 50):
        raise RunFailed(
            f"export check failed: {count} detections here, {len(theirs['scores'])} there; nothing was written"
        )
    if count == 0 or len(theirs["scores"]) == 0:
        return 0
    # (n, 4) and (m, 4) -> (n, m)
    apart = (ours["boxes"][:, None] - theirs["boxes"][None]).abs().amax(dim=2)
    apart = apart + 1e6 * (ours["labels"][:, None] != theirs["labels"][None])
    apart = apart + (ours["scores"][:, None] - theirs["scores"][None]).abs()
    nearest = apart.argmin(dim=1)
    values = {
        name: (ours[name].float() - theirs[name][nearest].float())
        .abs()
        .flatten(1 if ours[name].dim() > 1 else 0)
        for name in theirs
    }
    worst = {name: value.amax(dim=1) if value.dim() > 1 else value for name, value in values.items()}
    good = torch.stack([worst[name] <= TOLERANCES.get(name, 1e-4) for name in worst]).all(dim=0)
    if int((~good).sum()) > max(1, count // 50):
        listed = ", ".join(f"{name} {float(value.max()):.1e}" for name, value in worst.items())
        raise RunFailed(
            f"export check failed: {int((~good).sum())} of {count} detections differ ({listed}); nothing was written"
        )
    for name, value in worst.items():
        differences[name] = max(differences.get(name, 0.0), float(value[good].max()) if good.any() else 0.0)
    return int(good.sum())
