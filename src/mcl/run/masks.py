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


def require_masks(settings: FinetuneSettings, draws: bool, train: CocoScenes, val: CocoScenes) -> None:
    """Look whether there are the masks that other settings need.

    Args:
        draws: whether the detector draws masks.

    Raises:
        UserError: there are none.
    """
    if settings.eval_every and settings.best_by == "mask_AP" and not (draws and measures_masks(val)):
        why = f"{val.path} has too few masks" if draws else "the detector draws none"
        raise UserError(f"--best_by mask_AP: {why}; give --best_by box_AP")
    if settings.views.copy_paste and not train.count_objects()[1]:
        raise UserError(f"--views.copy_paste: no object of {train.path} has a segmentation to be cut out by")
