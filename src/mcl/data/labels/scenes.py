"""Labelled scenes for detectors: image, boxes, labels and masks, at the size the detector is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from faster_coco_eval.core import mask as rle
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from mcl.data.labels.coco_json import CocoScenes, Scene, SceneObject
from mcl.data.labels.copy_paste import choose_objects, paste
from mcl.data.loading.decode import TooManyPixels, UnreadableImage, read_image
from mcl.data.loading.order import Key
from mcl.errors import UserError, printable
from mcl.randomness import STREAM_DETECTION, STREAM_PASTE, seeded

UNKNOWN = 2  # in a mask, until it is augmented: there is an object, and nobody drew it
LARGER = "(--max_pixels); raise it, or take the image out of the annotations"


@dataclass(frozen=True)
class Framing:
    """How a scene becomes the detector's input; lengths in pixels.

    Without ``short_sides`` the whole image is fitted into a square of ``image_size``. With them (COCO's usual
    640..800) the shorter side becomes one of them, drawn at random in training and the largest otherwise,
    and the longer side at most ``long_side``. ``scale_jitter``: a random factor, then crop or pad. ``copy_paste``: the
    probability that objects of another scene are pasted in.
    """

    image_size: int
    short_sides: tuple[int, ...] = ()
    long_side: int = 1333
    flip: float = 0.0
    scale_jitter: tuple[float, float] = (1.0, 1.0)
    colour: float = 0.0
    copy_paste: float = 0.0

    def without_chance(self) -> Framing:
        """The same size without anything random."""
        return Framing(self.image_size, self.short_sides[-1:], self.long_side)


class CocoDetection(Dataset):
    """Scenes of a COCO file, item by key (epoch, index[, repeat]) or by index.

    An item is ``(image, target)``: ``image`` uint8 (3, H, W); ``target`` has ``boxes`` float32 (n, 4) as
    x1, y1, x2, y2 in pixels of ``image``, ``labels`` int64 (n,) from 1, if ``masks`` were asked for ``masks``
    uint8 (n, H, W) and ``mask_known`` bool (n,) (false: nobody drew one, the mask is empty), ``index`` (of the scene), ``size`` and ``original_size`` ((height, width) of
    ``image`` and of the file).
    Crowds are left out; a scene without objects has tensors with n = 0. What is random in an item is a
    function of (seed, epoch, index) alone, and of the repeat if an epoch shows a scene again.

    Args:
        scenes: what ``read_coco`` has checked.
        names: category names in the order of the labels, label 1 first.
        framing: size and augmentation.
        masks: also give masks.
        max_pixels: see ``read_scene``.
    """

    def __init__(
        self,
        scenes: CocoScenes,
        names: Sequence[str],
        framing: Framing,
        masks: bool,
        seed: int = 0,
        max_pixels: int | None = None,
    ) -> None:
        self.scenes, self.framing, self.masks, self.seed = scenes, framing, masks, seed
        self.max_pixels = max_pixels
        label_of = {name: label for label, name in enumerate(names, start=1)}
        self.labels = {i: label_of[name] for i, name in scenes.categories.items() if name in label_of}
        self._jitter = (
            v2.ColorJitter(*[framing.colour] * 3, hue=framing.colour / 4) if framing.colour else None
        )

    def __len__(self) -> int:
        return len(self.scenes.scenes)

    def __getitem__(self, key: int | Key) -> tuple[Tensor, dict[str, Any]]:
        epoch, index, *repeat = key if isinstance(key, tuple) else (0, key)
        scene = self.scenes.scenes[index]
        with seeded(STREAM_DETECTION, self.seed, epoch, index, *repeat):
            image, target = self._framed(scene)
        if self.framing.copy_paste:
            with seeded(STREAM_PASTE, self.seed, epoch, index, *repeat):
                image, target = self._pasted(index, image, target)
        extra = {
            "index": index,
            "original_size": (scene.height, scene.width),
            "size": tuple(image.shape[-2:]),
        }
        return image.as_subclass(Tensor), _plain(target) | extra

    def _framed(self, scene: Scene) -> tuple[Tensor, dict[str, Any]]:
        image = tv_tensors.Image(F.pil_to_tensor(read_scene(scene, self.max_pixels)))
        return self._augment(image, self._target(scene))

    def _pasted(self, index: int, image: Tensor, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """With objects of another scene, or as it was; always without masks if they are not asked for."""
        others, draw = len(self) - 1, float(torch.rand(()))
        if others and draw < self.framing.copy_paste:
            position = (index + 1 + int(torch.randint(others, ()))) % len(self)
            other, other_target = self._framed(self.scenes.scenes[position])
            drawn = (other_target["masks"] < UNKNOWN).flatten(1).all(1).nonzero()[:, 0]
            if len(drawn):
                image, target = paste(image.as_subclass(Tensor), target, other, other_target, drawn[choose_objects(len(drawn))])
        return image, {name: value for name, value in target.items() if name != "masks" or self.masks}

    def still(self, index: int) -> Tensor:
        """The scene's image without anything random, uint8 (3, h, w)."""
        image = F.pil_to_tensor(read_scene(self.scenes.scenes[index], self.max_pixels))
        return F.resize(
            image, list(framed_size(image.shape[-2:], self.framing.without_chance())), antialias=True
        )

    def mirrored(self, key: Key) -> bool:
        """Whether the item is flipped."""
        with seeded(STREAM_DETECTION, self.seed, *key):
            return _draw()[1] < self.framing.flip

    def target(self, index: int, flipped: bool) -> dict[str, Any]:
        """Target of the still image or its mirror image, without decoding it; ``size`` is its (h, w)."""
        scene = self.scenes.scenes[index]
        size = framed_size((scene.height, scene.width), self.framing.without_chance())
        target = _on_all(self._target(scene), F.resize, list(size))
        if flipped:
            target = _on_all(target, F.horizontal_flip)
        return _plain(target) | {"size": size}

    def _target(self, scene: Scene) -> dict[str, Any]:
        things = [thing for thing in scene.objects if not thing.crowd and thing.category in self.labels]
        size = (scene.height, scene.width)
        boxes = torch.tensor([thing.box for thing in things], dtype=torch.float32).reshape(-1, 4)
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
            "labels": torch.tensor([self.labels[thing.category] for thing in things], dtype=torch.int64),
        }
        if self.masks or self.framing.copy_paste:
            bitmaps = [_bitmap(thing, size) for thing in things]
            stacked = torch.stack(bitmaps) if bitmaps else torch.zeros(0, *size, dtype=torch.uint8)
            target["masks"] = tv_tensors.Mask(stacked)
        return target

    def _augment(self, image: tv_tensors.Image, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        framing = self.framing
        # Both are drawn whether used or not, so that switching one augmentation off does not move the others.
        side, mirror = _draw()
        if framing.scale_jitter != (1.0, 1.0):
            image, target = self._jitter_scale(image, target)
        else:
            size = list(framed_size(image.shape[-2:], framing, side))
            image, target = F.resize(image, size, antialias=True), _on_all(target, F.resize, size)
        if mirror < framing.flip:
            image, target = F.horizontal_flip(image), _on_all(target, F.horizontal_flip)
        return (self._jitter(image) if self._jitter else image), target

    def _jitter_scale(self, image: Tensor, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        square = (self.framing.image_size,) * 2
        steps = v2.Compose(
            [
                v2.ScaleJitter(square, self.framing.scale_jitter, antialias=True),
                v2.RandomCrop(square, pad_if_needed=True),
                # A box of which the crop has left less than a pixel is gone.
                v2.SanitizeBoundingBoxes(min_size=1.0),
            ]
        )
        return steps(image, target)


def require_few_pixels(scenes: CocoScenes, max_pixels: int) -> None:
    """Check the annotated sizes, before anything is decoded.

    Raises:
        UserError: naming the first image that is larger.
    """
    for scene in scenes.scenes:
        if scene.width * scene.height > max_pixels:
            what = f"{scene.width} x {scene.height} are larger than {max_pixels:,} pixels"
            raise UserError(f"{printable(str(scene.path))}: {what} {LARGER}")


def read_scene(scene: Scene, max_pixels: int | None = None) -> Image.Image:
    """Decode a scene's image at the size its annotations were made for.

    Annotation tools differ in whether they apply the EXIF rotation: the orientation that has the annotated
    width and height is taken.

    Args:
        max_pixels: width x height above which nothing is decoded; none: Pillow's limit.

    Raises:
        UserError: the image cannot be decoded, is larger, or has another size than annotated.
    """
    try:
        image = read_image(scene.path, max_pixels=max_pixels)
        if image.size != (scene.width, scene.height):
            as_stored = read_image(scene.path, upright=False, max_pixels=max_pixels)
            image = as_stored if as_stored.size == (scene.width, scene.height) else image
    except TooManyPixels as error:
        raise UserError(f"{printable(str(scene.path))}: {error} {LARGER}") from None
    except UnreadableImage as error:
        raise UserError(f"{printable(str(scene.path))}: {error}; mend the file or take it out of the annotations") from None
    if image.size != (scene.width, scene.height):
        found, wanted = "{} x {}".format(*image.size), f"{scene.width} x {scene.height}"
        raise UserError(
            f"{printable(str(scene.path))}: the image is {found} pixels, its annotation (image {scene.id}) says {wanted}"
        )
    return image


def object_mask(thing: SceneObject, height: int, width: int) -> np.ndarray:
    """Mask of one object as uint8 (height, width), 1 inside."""
    if thing.segmentation is None:
        return np.zeros((height, width), np.uint8)
    return rle.decode(rle.segmToRle(thing.segmentation, width, height)).reshape(height, width)


def framed_size(size: Sequence[int], framing: Framing, draw: int = -1) -> tuple[int, int]:
    """(height, width) of an image after resizing; ``draw`` picks among ``short_sides`` (-1: the last)."""
    height, width = size
    long, short = max(height, width), min(height, width)
    if framing.short_sides:
        side = framing.short_sides[draw % len(framing.short_sides) if draw >= 0 else -1]
        scale = min(side / short, framing.long_side / long)
    else:
        scale = framing.image_size / long
    return max(1, round(height * scale)), max(1, round(width * scale))


def collate(items: Sequence[tuple[Tensor, dict[str, Any]]]) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """Lists instead of stacked tensors: images and targets differ in size."""
    images, targets = zip(*items, strict=True)
    return list(images), list(targets)


def _bitmap(thing: SceneObject, size: tuple[int, int]) -> Tensor:
    if thing.segmentation is None:
        return torch.full(size, UNKNOWN, dtype=torch.uint8)
    return torch.from_numpy(object_mask(thing, *size))


def _plain(target: dict[str, Any]) -> dict[str, Tensor]:
    """An augmented target as tensors; unknown masks are marked as such and emptied."""
    target = {key: value.as_subclass(Tensor) for key, value in target.items()}
    if "masks" in target:
        masks = target["masks"]
        target["mask_known"] = (masks < UNKNOWN).flatten(1).all(1)
        target["masks"] = masks * target["mask_known"][:, None, None]
    return target


def _draw() -> tuple[int, float]:
    """(choice of the side, choice of the flip) from the default generator."""
    return int(torch.randint(2**31, ())), float(torch.rand(()))


def _on_all(target: dict[str, Any], change: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    return {key: value if key == "labels" else change(value, *arguments) for key, value in target.items()}
