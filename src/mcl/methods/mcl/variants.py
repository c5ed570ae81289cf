"""Ways to compute MCL's loss: with BatchNorm in eval mode they are one function, so their cost can be compared."""

from __future__ import annotations

from mcl.methods.mcl.settings import MclSettings

EXHAUSTIVE, MATCHED_ALL, MATCHED_FULL = "exhaustive", "matched/all", "matched/full"
STACKED = "matched/tiles"


def variants_of(settings: MclSettings) -> dict[str, MclSettings]:
    """name -> settings; the authors' way first. Targets from full-size images exist for assignment ``top`` and a
    target network only.

    Tiles that are images of their own (layout ``batch``) have one way.
    """
    if settings.layout == "batch":
        return {STACKED: settings}
    changes = {
        EXHAUSTIVE: {"encode": "exhaustive", "target_canvases": "all"},
        MATCHED_ALL: {"encode": "matched", "target_canvases": "all"},
        MATCHED_FULL: {"encode": "matched", "target_canvases": "full"},
    }
    if settings.layout == "scattered" or settings.dense_weight or settings.regions_weight:
        del changes[EXHAUSTIVE]
    if settings.assignment != "top" or not settings.has_target:
        del changes[MATCHED_FULL]
    return {name: settings.model_copy(update=change) for name, change in changes.items()}
