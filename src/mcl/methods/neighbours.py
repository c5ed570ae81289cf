"""k-nearest-neighbour accuracy of a trunk's features on pictures in class folders: a cheap look at what it recognises."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from mcl.data.loading.decode import UnreadableImage, read_image
from mcl.data.sources.pictures import Picture
from mcl.errors import UserError
from mcl.methods.base import Method
from mcl.methods.class_folders import class_number
from mcl.nn.backbone import features_of
from mcl.nn.pyramid import LEVELS
from mcl.nn.trunk import Trunk
from mcl.randomness import STREAM_CHECK, generator_for

NEIGHBOURS = 10
BATCH = 64


class ClassFolders:
    """Some pictures of class folders, decoded once.

    Attributes:
        pixels: (n, 3, S, S) uint8, the middle square of each.
        labels: (n,) class of each, 0 .. classes - 1.

    Raises:
        UserError: all pictures lie in one folder, or fewer than 11 of them can be read.
    """

    def __init__(self, pictures: Sequence[Picture], size: int, most: int, seed: int, source: str) -> None:
        chosen = torch.randperm(len(pictures), generator=generator_for(STREAM_CHECK, seed))[:most].tolist()
        found = [(middle, class_number(pictures[i])) for i in chosen if (middle := _middle(pictures[i], size)) is not None]
        if len(found) <= NEIGHBOURS:
            raise UserError(f"{source}: {len(found)} pictures are too few for {NEIGHBOURS} neighbours; --watch.knn_every 0 goes without")
        self.pixels = torch.stack([pixels for pixels, _ in found])
        classes, self.labels = torch.tensor([label for _, label in found]).unique(return_inverse=True)
        if len(classes) == 1:
            raise UserError(f"{source}: all pictures lie in one folder; neighbours need a folder for each class")

    def __str__(self) -> str:
        counts = self.labels.bincount().float()
        usual = ((counts / counts.sum()) ** 2).sum()
        return f"{len(self.labels):,} pictures in {len(counts)} class folders (guessing gives {usual:.1%})"


@torch.no_grad()
def neighbour_accuracies(method: Method, folders: ClassFolders) -> dict[str, float]:
    """``knn/c5`` and ``knn/p2`` .. ``knn/p5``: accuracy with the online trunk's features, each map's mean over its cells.

    The trunk computes with its running statistics, and is as it was afterwards.
    """
    trunk = method.trunk
    modes = {module: module.training for module in trunk.modules()}
    trunk.eval()
    try:
        with method.autocast():
            rows = [pooled(trunk, method.images(pixels)) for pixels in folders.pixels.split(BATCH)]
    finally:
        for module, training in modes.items():
            module.training = training
    labels = folders.labels.to(rows[0]["c5"].device)
    return {f"knn/{name}": accuracy(torch.cat([row[name] for row in rows]), labels) for name in rows[0]}


def pooled(trunk: Trunk, images: Tensor) -> dict[str, Tensor]:
    """(N, 3, S, S), normalised -> ``c5``, ``p5`` .. ``p2``: (N, C) in fp32, means over a map's cells."""
    features = features_of(trunk.backbone.body, images)
    levels = trunk.backbone.fpn.levels(features, dict.fromkeys(range(len(LEVELS)), slice(None)))
    found = {"c5": features[-1], **{LEVELS[level]: feature for level, feature in levels.items()}}
    return {name: feature.float().mean(dim=(2, 3)) for name, feature in found.items()}


def accuracy(features: Tensor, labels: Tensor, neighbours: int = NEIGHBOURS) -> float:
    """Share of rows whose label is the most frequent of the others nearest to it (cosine; ties: the more similar).

    Args:
        features: (n, C), n > neighbours.
        labels: (n,) 0 .. classes - 1.
    """
    rows = F.normalize(features, dim=1)
    cosines = rows @ rows.T
    cosines.fill_diagonal_(-2.0)  # nobody is a neighbour of itself
    near, nearest = cosines.topk(neighbours, dim=1)
    votes = torch.zeros(len(rows), int(labels.max()) + 1, device=rows.device)
    votes.scatter_add_(1, labels[nearest], 1 + 1e-3 * near)
    return float((votes.argmax(dim=1) == labels).float().mean())


def _middle(picture: Picture, size: int) -> Tensor | None:
    try:
        image = read_image(picture, at_least=(2 * size, 2 * size))
    except UnreadableImage:
        return None
    square = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()
