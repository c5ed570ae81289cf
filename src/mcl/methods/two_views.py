"""Methods that compare two full-size views of an image: what MoCo v2, BYOL, DenseCL and SimSiam have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from mcl.config.method import MethodSettings
from mcl.config.pretrain import ViewSettings
from mcl.data.loading.views import ViewSpec, Wanted
from mcl.methods.base import split_batch
from mcl.methods.online_target import OnlineAndTarget
from mcl.nn.momentum import move_target

VIEWS = (1, 2)


class TwoViews(OnlineAndTarget):
    """Heads on the maps of both views; a subclass computes ``pair_losses``."""

    @abstractmethod
    def pair_losses(self, images: Mapping[int, Tensor]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """(loss, numbers to log) ``passes`` times: their sum is the loss of a micro-batch.

        Args:
            images: view -> (N, 3, S, S), normalised.
        """

    @classmethod
    def wanted(cls, settings: MethodSettings, views: ViewSettings, image_size: int) -> Wanted:
        return full_size_views(image_size)

    def losses(
        self, batch: Mapping[str, Any], step: int, micro_batches: int = 1
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        for piece in split_batch(batch, micro_batches):
            images = {view: self.images(piece["views"][view, 1]) for view in VIEWS}
            for loss, numbers in self.pair_losses(images):
                yield loss / micro_batches, numbers


def full_size_views(image_size: int) -> Wanted:
    """Two views of the full size, the first with the first probability of blur and solarize."""
    return Wanted(tuple(ViewSpec((view, 1), image_size, style) for style, view in enumerate(VIEWS)))


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
