"""Whether a fine-tuning learns masks, and what it does about objects that have none: ``--masks``."""

from __future__ import annotations

from mcl.config.finetune import FinetuneSettings
from mcl.data.labels.coco_json import CocoScenes
from mcl.errors import UserError, printable

ENOUGH = 0.5  # share of objects with a mask from which on masks are learned and measured unasked


def learns_masks(settings: FinetuneSettings, train: CocoScenes) -> tuple[bool, list[str]]:
    """Whether masks are learned, and what a user should know of it.

    Raises:
        UserError: ``--masks require``, and an object has none.
    """
    objects, masks = train.count_objects()
    without = objects - masks
    if settings.masks == "off" or not settings.detector.masks:
        return False, []
    if settings.masks == "require" and without:
        first = next(s for s in train.scenes if any(t.segmentation is None and not t.crowd for t in s.objects))
        raise UserError(
            f"--masks require: {without:,} of {objects:,} objects of {train.path} have no mask, "
            f"the first in {printable(str(first.path))}"
        )
    named = settings.detector.name != "auto"
    if masks and (named or masks >= ENOUGH * objects):
        left = f"{train.path.name}: {without:,} of {objects:,} objects have no mask: they teach their boxes only"
        return True, [left] if without else []
    if masks:
        few = f"{train.path.name}: only {masks:,} of {objects:,} objects have a mask, so masks are not learned"
        return False, [f"{few} (--detector.name mask-rcnn would learn from those)"]
    return False, []


def measures_masks(scenes: CocoScenes) -> bool:
    """Whether enough objects have a mask for the AP of masks to say something; the others are ignored in it."""
    objects, masks = scenes.count_objects()
    return masks > 0 and masks >= ENOUGH * objects
