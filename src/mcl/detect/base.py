"""What the house asks of a detector. Each one is a file that torchvision's own class is the base of."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from mcl.config.detector import DetectorSettings
from mcl.data.labels.scenes import Framing
from mcl.detect.box_losses import BoxLosses
from mcl.nn.backbone import STRIDES
from mcl.nn.trunk import PyramidBackbone, TrunkSpec


@dataclass(frozen=True)
class DetectorPlan:
    """What a detector is built from; ``names`` are its classes in the order of labels, label 1 first.

    ``drop_path`` is of training alone (``build_backbone``): a stored detector has none.
    """

    spec: TrunkSpec
    names: tuple[str, ...]
    settings: DetectorSettings
    image_size: int
    short_sides: tuple[int, ...] = ()
    long_side: int = 1333
    drop_path: float = 0.0

    @property
    def num_classes(self) -> int:
        """With the background, as torchvision counts."""
        return len(self.names) + 1

    @property
    def masks(self) -> bool:
        """Whether it draws masks."""
        return self.settings.masks

    @property
    def framing(self) -> Framing:
        """How test images are brought to size."""
        return Framing(self.image_size, self.short_sides, self.long_side).without_chance()

    @property
    def trunk(self) -> TrunkSpec:
        """The trunk's shape; transformers with a fixed input size are built for the detector's."""
        return self.spec.at_size(self.image_size)

    def transform(self) -> dict[str, Any]:
        """How torchvision's classes normalise, resize and pad images, as their arguments."""
        return {
            "min_size": list(self.short_sides) or self.image_size,
            "max_size": self.long_side if self.short_sides else self.image_size,
            "image_mean": list(self.spec.mean),
            "image_std": list(self.spec.std),
            # Whole images on one square canvas: all batches have one shape and are padded alike.
            "size_divisible": STRIDES[-1] if self.short_sides else self.image_size,
        }


class Detector(nn.Module):
    """A detector on a trunk, whose names its tensors have; those of the rest are torchvision's.

    Called with images it resizes them itself, as torchvision's detectors do; training and testing give it images at
    their final size (``mcl.detect.forward``).

    Attributes:
        backbone: images to pyramid levels.
        transform: torchvision's, for normalising, padding, and bringing detections back to the original size.
    """

    #: what it finds, in COCO's words
    finds: ClassVar[tuple[str, ...]] = ("bbox",)

    backbone: PyramidBackbone
    transform: GeneralizedRCNNTransform

    @classmethod
    @abstractmethod
    def build(cls, plan: DetectorPlan) -> Detector:
        """A fresh one; ``plan.settings`` are of its own class."""

    @abstractmethod
    def losses(
        self, features: Mapping[str, Tensor], canvas: ImageList, targets: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Loss terms of what ``backbone`` gave for a canvas; modules must be in training mode.

        Args:
            targets: ``boxes`` (n, 4) and ``labels`` (n,) of every image, ``masks`` (n, h, w) if it finds masks.
        """

    def losses_and_boxes(
        self, features: Mapping[str, Tensor], canvas: ImageList, targets: Sequence[Mapping[str, Tensor]]
    ) -> tuple[dict[str, Tensor], BoxLosses]:
        """``losses``, and the box regression loss of every sampled box (of the last stage, where there are several)."""
        raise NotImplementedError

    @abstractmethod
    def detections(self, features: Mapping[str, Tensor], canvas: ImageList) -> list[dict[str, Tensor]]:
        """``boxes`` (n, 4) in pixels of the canvas, ``labels``, ``scores`` and what else it finds, image by image."""

    @property
    @abstractmethod
    def pieces(self) -> tuple[str, ...]:
        """Pieces of a trunk that it is built on (``mcl.nn.parts.PIECES``), under the trunk's names."""

    @property
    def head_convs(self) -> int:
        """Number of the trunk's head convolutions that it has at the start of its box head."""
        return 0

    def towers(self) -> Sequence[tuple[str, str]]:
        """Further tensors that are to start from a trunk's head: (name in the trunk, name in the detector)."""
        return ()

    def trunk_modules(self) -> list[nn.Module]:
        """What ``--freeze trunk`` freezes, where ``settings.freezes_trunk``."""
        raise NotImplementedError

    @abstractmethod
    def sizes(self) -> str:
        """What was chosen for the image size, for the screen."""
