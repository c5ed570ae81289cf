"""What every pre-training method offers; nothing outside its folder asks which one it is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mcl.config.method import MethodSettings
from mcl.config.pretrain import ModelSettings, ViewSettings
from mcl.data.computed import Survey
from mcl.data.loading.dataset import collate_views
from mcl.data.loading.views import Fields, Wanted
from mcl.data.sources.pictures import Picture
from mcl.methods.pixels import normalise
from mcl.methods.views_picture import draw_views
from mcl.nn.trunk import Trunk
from mcl.randomness import STREAM_VIEWS, generator_for


class Method(nn.Module):
    """A pre-training method: its modules are its state (online, target, predictors, queues).

    Args:
        trunk: what it trains, or a part of it.
        model: widths of what comes on top of the trunk.
        settings: of the method.
        seed: of everything that it draws.
        precision: ``bf16`` computes networks under autocast; losses stay in fp32.
        channels_last: memory format of images.
    """

    #: kind of warning (``watch.<kind>``) -> what a user of this method can try
    advice: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self, trunk: Trunk, model: ModelSettings, settings: MethodSettings, seed: int, precision: str = "fp32",
        channels_last: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model, self.settings, self.seed = model, settings, seed
        self.precision, self.channels_last = precision, channels_last

    # What it wants of the data.

    @classmethod
    def settle(cls, settings: MethodSettings, pictures: Sequence[Picture]) -> MethodSettings:
        """Settings with what the names of a run's pictures decide, such as its classes; before anything is built.

        What comes back stands in config.yaml, and a resumed run must have the same.

        Raises:
            UserError: the pictures lack what the method needs.
        """
        return settings

    @classmethod
    def fields(cls, settings: MethodSettings, survey: Survey) -> Fields | None:
        """What each picture adds to a batch; it may be computed here, once, for every picture (``survey.of_each``).

        Called when everything else is known to be right, on rank 0 first: the other processes find what is kept.

        Args:
            settings: as ``settle`` gave them.
        """
        return None

    @classmethod
    @abstractmethod
    def wanted(cls, settings: MethodSettings, views: ViewSettings, image_size: int) -> Wanted:
        """Views of an image, and what else of it, that a batch holds."""

    @classmethod
    def collate(cls, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Samples of ``UnlabeledImages`` -> a batch; ``batch["index"]`` has a row for each image."""
        return collate_views(samples)

    @classmethod
    def example_batch(
        cls, settings: MethodSettings, views: ViewSettings, image_size: int, images: int, seed: int,
        device: torch.device | str,
    ) -> dict[str, Any]:  # fmt: skip
        """A batch as the loader gives it, of random pixels, for ``mcl bench`` and ``mcl doctor``.

        A method whose pictures have ``fields`` adds them.
        """
        generator = generator_for(STREAM_VIEWS, seed)

        def pixels(size: int) -> Tensor:
            shape = (images, 3, size, size)
            if torch.device(device).type == "meta":
                return torch.empty(shape, dtype=torch.uint8, device=device)
            return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)

        wanted = cls.wanted(settings, views, image_size)
        batch = {"views": {spec.key: pixels(spec.size) for spec in wanted.views}, "index": torch.arange(images), "unreadable": []}
        if wanted.geometry:
            batch["crops"] = {spec.key: random_crops(images, generator).to(device) for spec in wanted.views}
        return batch

    # What it trains.

    @property
    @abstractmethod
    def trunk(self) -> Trunk:
        """The online trunk: what is exported."""

    @property
    @abstractmethod
    def trunks(self) -> list[Trunk]:
        """Every trunk that computes in a step: the online one first, then targets."""

    @property
    @abstractmethod
    def trained(self) -> nn.Module:
        """The modules whose parameters the optimizer gets."""

    @property
    @abstractmethod
    def trained_parts(self) -> tuple[str, ...]:
        """Pieces of the trunk that its loss trains: ``backbone``, ``p2`` .. ``p5``, ``head``."""

    # A step.

    @abstractmethod
    def backward_passes(self, micro_batches: int) -> int:
        """How many losses ``losses`` gives for so many micro-batches."""

    @abstractmethod
    def losses(
        self, batch: Mapping[str, Any], step: int, micro_batches: int = 1
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """(loss, numbers to log) of a batch, piece by piece: call backward on each before asking for the next, to save memory.

        Losses and gradients add up to the batch's; over processes, their mean is the joint batch's. With several
        micro-batches statistics of BatchNorms are each micro-batch's own. Numbers are to be averaged.
        """

    def loss(self, batch: Mapping[str, Any], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """(0-d loss, numbers to log) of a batch: the sum of ``losses``, held in memory at once."""
        rows = list(self.losses(batch, step))
        return torch.stack([loss for loss, _ in rows]).sum(), mean_numbers([numbers for _, numbers in rows])

    @abstractmethod
    def after_update(self, step: int, total_steps: int) -> None:
        """Called after the optimizer: moves the target."""

    # What it shows.

    def draw_first_batch(self, folder: Path, batch: Mapping[str, Any]) -> Path:
        """Draw what the network sees of a batch into a folder, so that a wrong setting is seen at once; returns the file."""
        return draw_views(folder / "views.png", batch["views"])

    def notes(self, images: int) -> list[str]:
        """Lines to say at the start about batches of ``images`` on this process at a time."""
        return []

    # What it is measured by.

    @classmethod
    def variants(cls, settings: MethodSettings) -> dict[str, MethodSettings]:
        """Ways to compute the same loss, by name, that ``mcl bench step`` sets side by side; the plain one first."""
        return {settings.name: settings}

    def components(self) -> dict[str, list[nn.Module]]:
        """Modules of each component of a step, none inside another: what FLOPs and time are charged to."""
        trunk = self.trunk
        pyramid = trunk.backbone.fpn
        return {
            "backbone": [trunk.backbone.body],
            "pyramid": [*pyramid.inner_blocks, *pyramid.layer_blocks],
            "head": [trunk.roi_heads.box_head],
        }

    def gathered_numbers(self, images: int) -> int:
        """Numbers that a process with so many images a step hands to every other one, besides gradients and statistics."""
        return 0

    # For methods themselves.

    def images(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 of a batch -> normalised, on the method's device, in its memory format."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        spec, like = self.trunk.spec, next(self.parameters())
        moved = pixels.to(like.device, non_blocking=True).contiguous(memory_format=layout)
        return normalise(moved, spec.mean, spec.std, like.dtype)

    def autocast(self) -> AbstractContextManager:
        """Computes networks in ``precision`` (tensors without data, of device meta, know no autocast)."""
        device = next(self.parameters()).device.type
        if self.precision != "bf16" or device == "meta":
            return nullcontext()
        return torch.autocast(device, torch.bfloat16)


def random_crops(images: int, generator: torch.Generator) -> Tensor:
    """(images, 5): crops as ``batch["crops"]`` has them, of half the image's width and height and more."""
    sides = 0.5 + 0.5 * torch.rand(images, 2, generator=generator)
    first = (1 - sides) * torch.rand(images, 2, generator=generator)
    flips = torch.randint(0, 2, (images, 1), generator=generator).float()
    return torch.cat([first, first + sides, flips], dim=1)


def mean_numbers(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What a step logs, from what its pieces gave; a number that not all of them have is the mean of those that do."""
    if len(rows) == 1:
        return dict(rows[0])
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: torch.stack([row[name] for row in rows if name in row]).mean() for name in names}


def split_batch(batch: Mapping[str, Any], pieces: int) -> list[Mapping[str, Any]]:
    """A batch in equal pieces, one after the other; their number divides its images."""
    if pieces == 1:
        return [batch]
    images = len(batch["index"]) // pieces
    return [_rows(batch, slice(i * images, (i + 1) * images)) for i in range(pieces)]


def _rows(values: Mapping[Any, Any], rows: slice) -> dict[Any, Any]:
    return {
        key: _rows(value, rows) if isinstance(value, Mapping) else value[rows]
        for key, value in values.items()
        if isinstance(value, Mapping | Tensor)
    }
