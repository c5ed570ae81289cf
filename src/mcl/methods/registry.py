"""Every pre-training method once. A new one is a folder and a line here (docs/add-a-method.md)."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcl.config.method import MethodSettings
from mcl.errors import UserError

if TYPE_CHECKING:
    from mcl.methods.base import Method


@dataclass(frozen=True)
class Entry:
    """Where a method lies: ``settings.py`` (read without torch) and ``method.py`` in its folder."""

    folder: str
    settings: str
    method: str


METHODS: dict[str, Entry] = {
    "mcl": Entry("mcl.methods.mcl", "MclSettings", "Mcl"),
    "mocov2": Entry("mcl.methods.mocov2", "MoCoV2Settings", "MoCoV2"),
    "byol": Entry("mcl.methods.byol", "ByolSettings", "Byol"),
    "densecl": Entry("mcl.methods.densecl", "DenseClSettings", "DenseCl"),
    "simsiam": Entry("mcl.methods.simsiam", "SimSiamSettings", "SimSiam"),
    "supervised": Entry("mcl.methods.supervised", "SupervisedSettings", "Supervised"),
    "swav": Entry("mcl.methods.swav", "SwavSettings", "Swav"),
    "soco": Entry("mcl.methods.soco", "SocoSettings", "Soco"),
    "detconb": Entry("mcl.methods.detconb", "DetConBSettings", "DetConB"),
    "mocov3": Entry("mcl.methods.mocov3", "MoCoV3Settings", "MoCoV3"),
    "dino": Entry("mcl.methods.dino", "DinoSettings", "Dino"),
    "mae": Entry("mcl.methods.mae", "MaeSettings", "Mae"),
}


def names() -> tuple[str, ...]:
    """All methods."""
    return tuple(METHODS)


def settings_of(name: str) -> type[MethodSettings]:
    """A method's settings; does not import torch."""
    entry = METHODS[name]
    return getattr(importlib.import_module(f"{entry.folder}.settings"), entry.settings)


def method_of(name: str) -> type[Method]:
    """A method's class.

    Raises:
        UserError: a library that it is built from is not installed.
    """
    entry = METHODS[name]
    try:
        return getattr(importlib.import_module(f"{entry.folder}.method"), entry.method)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "mcl":
            raise
        raise UserError(
            f"--method.name {name}: {error.name} is not installed; pip install 'mcl[methods]'"
        ) from None
