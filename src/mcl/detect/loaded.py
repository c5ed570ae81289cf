"""A detector to use from Python: ``mcl.load_detector(path)(images)``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from mcl.config.optim import LoopSettings
from mcl.data.labels.scenes import Framing, framed_size
from mcl.data.loading.decode import UnreadableImage, read_image
from mcl.detect.base import Detector, DetectorPlan
from mcl.detect.forward import detect, to_canvas
from mcl.detect.saved import load_detector as load_saved
from mcl.engine.machine.device import prepare_device
from mcl.errors import UserError, printable
from mcl.interop.onnx.session import OnnxDetector, is_onnx

OneImage = str | Path | Image.Image | np.ndarray | Tensor
MASK = 0.5  # probability from which a pixel belongs to an object


@dataclass(frozen=True)
class Detections:
    """What was found on an image, best first.

    Attributes:
        boxes: (n, 4) float32, x1, y1, x2, y2 in pixels of the image.
        scores: (n,) 0..1.
        labels: (n,) place of the class in ``LoadedDetector.names``, from 0.
        names: (n,) names of the classes.
        masks: (n, H, W) bool, H x W as the image; None if the detector draws none.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    names: list[str]
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.scores)


class Network(Protocol):
    """What finds things on images, whatever it is stored as."""

    names: tuple[str, ...]

    def find(self, images: Sequence[Tensor]) -> Iterator[dict[str, Tensor]]:
        """uint8 (3, H, W) -> ``boxes``, ``labels`` from 1, ``scores``[, ``masks`` (n, 1, H, W) as probabilities]."""


class LoadedDetector:
    """Finds objects on images.

    Attributes:
        names: of the classes.
    """

    def __init__(self, network: Network, batch: int = 8, score_threshold: float = 0.0) -> None:
        self.network, self.batch, self.score_threshold = network, batch, score_threshold
        self.names = network.names

    def __call__(self, images: OneImage | Sequence[OneImage]) -> Detections | list[Detections]:
        """Detections of one image, or a list of those of many.

        Args:
            images: path, PIL image, array (H, W, 3) or (H, W) uint8 RGB or grey, tensor (3, H, W) uint8 or float in
                0..1; or a sequence of them, or an array or tensor with one dimension more.

        Raises:
            UserError: a file that cannot be read, or something that is no image.
        """
        if _is_one(images):
            return next(self.each([images]))
        return list(self.each(images))

    def each(self, images: Sequence[OneImage]) -> Iterator[Detections]:
        """Detections image by image, computed ``batch`` images at a time."""
        for first in range(0, len(images), self.batch):
            pixels = [_pixels(images[i], f"image {i}") for i in range(first, min(first + self.batch, len(images)))]
            for found in self.network.find(pixels):
                yield self._told(found)

    def _told(self, found: dict[str, Tensor]) -> Detections:
        kept = found["scores"] >= self.score_threshold
        found = {name: value[kept].cpu() for name, value in found.items()}
        labels = found["labels"].long() - 1
        masks = found["masks"][:, 0] > MASK if "masks" in found else None
        names = [self.names[label] for label in labels.tolist()]
        return Detections(found["boxes"].float(), found["scores"].float(), labels, names, masks)


def load_detector(
    path: str | Path,
    score_threshold: float | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    batch: int = 8,
    threads: int | None = None,
) -> LoadedDetector:
    """A detector to call on images.

    Args:
        path: run folder of ``mcl finetune``, its ``detector.safetensors``, or an ``.onnx`` file of ``mcl export``.
        score_threshold: drop detections that score less; None: as it was trained.
        device: where it runs (an ``.onnx`` file runs on the CPU).
        batch: images that are computed together.
        threads: CPU threads; None: as torch and onnxruntime choose.

    Raises:
        UserError: no detector there, or a damaged one.
    """
    path = Path(path)
    if is_onnx(path):
        return LoadedDetector(_Onnx(OnnxDetector(path, threads)), batch, score_threshold or 0.0)
    where = prepare_device(LoopSettings(device=device, threads=threads))
    detector, plan = load_saved(path, score_threshold, "--model")
    return LoadedDetector(_Torch(detector.to(where), plan, where), batch)


class _Torch:
    def __init__(self, detector: Detector, plan: DetectorPlan, device: torch.device) -> None:
        self.detector, self.framing, self.device, self.names = detector, plan.framing, device, plan.names

    @torch.inference_mode()
    def find(self, images: Sequence[Tensor]) -> Iterator[dict[str, Tensor]]:
        sizes = [tuple(image.shape[-2:]) for image in images]
        framed = [F.resize(image, list(framed_size(image.shape[-2:], self.framing)), antialias=True) for image in images]
        yield from detect(self.detector, to_canvas(self.detector, framed, self.device), sizes)


class _Onnx:
    """Images are resized here, smoothly, so that the file's own resizing has nothing left to do."""

    def __init__(self, network: OnnxDetector) -> None:
        self.network, self.names = network, network.names
        told = network.framing
        self.framing = Framing(told["image_size"], tuple(told["short_sides"]), told["long_side"]).without_chance()

    def find(self, images: Sequence[Tensor]) -> Iterator[dict[str, Tensor]]:
        for image in images:
            size = framed_size(image.shape[-2:], self.framing)
            found = self.network(F.resize(image, list(size), antialias=True).float() / 255)
            scale = torch.tensor([image.shape[-1] / size[1], image.shape[-2] / size[0]]).repeat(2)
            found["boxes"] = found["boxes"] * scale
            if "masks" in found:
                found["masks"] = F.resize(found["masks"], list(image.shape[-2:]), antialias=True)
            yield found


def _is_one(images: OneImage | Sequence[OneImage]) -> bool:
    if isinstance(images, np.ndarray | Tensor):
        return images.ndim <= 3
    return isinstance(images, str | Path | Image.Image)


def _pixels(image: OneImage, which: str) -> Tensor:
    """uint8 (3, H, W)."""
    if isinstance(image, str | Path):
        try:
            return F.pil_to_tensor(read_image(image))
        except UnreadableImage as error:
            raise UserError(f"{printable(str(image))}: {error}") from None
    if isinstance(image, Image.Image):
        return F.pil_to_tensor(image.convert("RGB"))
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and (image.ndim == 2 or image.ndim == 3 and image.shape[2] in (1, 3)):
        grey = image.reshape(*image.shape[:2], -1)
        return torch.from_numpy(np.array(np.broadcast_to(grey, (*image.shape[:2], 3)))).permute(2, 0, 1)
    if isinstance(image, Tensor) and image.ndim == 3 and image.shape[0] == 3:
        if image.dtype == torch.uint8:
            return image.cpu()
        if image.is_floating_point() and float(image.min()) >= 0 and float(image.max()) <= 1:
            return (image.cpu() * 255).round().to(torch.uint8)
    raise UserError(f"{which}: {_what(image)}; give {WANTED}")


WANTED = "a path, a PIL image, an array (H, W, 3) of uint8, or a tensor (3, H, W) of uint8 or of numbers in 0..1"


def _what(image: object) -> str:
    if isinstance(image, np.ndarray | Tensor):
        return f"{type(image).__name__} of {image.dtype} and shape {tuple(image.shape)}"
    return type(image).__name__
