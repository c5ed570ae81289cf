"""Settings of ``mcl models``."""

from __future__ import annotations

from pydantic import Field

from mcl.config.base import Command


class ModelsSettings(Command):
    """List backbones that a trunk can have, with their size, cost and what they export to.

    Any timm network with features at strides 4, 8, 16 and 32 works; the list holds the families that were tried.
    """

    find: str = Field("", description="Show only names that contain this.")
    measure: list[str] = Field(
        [], description="Measure these timm names now instead (any timm network; takes seconds)."
    )
