"""What a file of ours says of its network, checked before one is built from it: a wrong number costs no memory or time."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn

from mcl.errors import UserError, did_you_mean
from mcl.nn.load_report import match
from mcl.nn.parts import BODY, FPN, HEAD, LEVELS, least_parts, pieces_in
from mcl.nn.stored import short
from mcl.nn.vit import is_plain_vit

SPEC = ("backbone", "pyramid_channels", "head_convs", "image_size")
OPTIONAL = ("mean", "std", "finer")
#: range of a number of the spec that no tensor of the file tells
RANGES = {"pyramid_channels": (1, 2048), "head_convs": (0, 16), "image_size": (32, 4096)}
#: of plain transformers only; 0 where a spec has none
OF_VIT = {"patch_size": (0, 64), "attention_window": (0, 1024)}
MOST_BLOCKS = 128
#: of a detector's tensors, those that a trunk has
OF_TRUNK = re.compile(
    rf"{re.escape(BODY)}|{re.escape(FPN)}(inner|layer)_blocks\.\d+\.([01]|resample)\.|{re.escape(HEAD)}\d+\.[01]\."
)


def checked_spec(stored: Any, state: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """What a file says of its trunk's shape, as arguments of ``TrunkSpec``, after a check against its tensors.

    Args:
        stored: its ``spec``, as JSON gave it.
        state: its tensors, under the trunk's names; those of some parts may be missing.

    Raises:
        UserError: which value is wrong, and what the file's tensors say instead.
    """
    if not isinstance(stored, dict):
        raise UserError(f"{where}: its spec is {short(stored)}, not names and values")
    for name in SPEC:
        if name not in stored:
            raise UserError(f"{where}: its spec has no {name}")
    if unknown := set(stored) - {*SPEC, *OPTIONAL, *OF_VIT, "global_blocks"}:
        raise UserError(f"{where}: its spec has {short(min(unknown))}, which this mcl does not know")
    for name, (low, high) in RANGES.items():
        told, value = _told_by_tensors(name, state), stored[name]
        if type(value) is not int or (told is None and not low <= value <= high):
            raise UserError(f"{where}: its spec says {name} {short(value)}; a whole number in {low}..{high} is needed")
        if told is not None and told != value:
            raise UserError(f"{where}: its spec says {name} {short(value)}, its tensors say {told}")
    if type(finer := stored.get("finer", 0)) is not int or not 0 <= finer < len(LEVELS):
        raise UserError(f"{where}: its spec says finer {short(finer)}; a whole number in 0..{len(LEVELS) - 1} is needed")
    pixels = {name: _three(name, stored[name], where) for name in ("mean", "std") if name in stored}
    _require_backbone(stored, state, where)
    return {**stored, **pixels, **_checked_vit(stored, where)}


def require_fit(
    build: Callable[[], nn.Module], state: Mapping[str, Tensor], where: str, prefixes: str | tuple[str, ...] = ""
) -> None:
    """Refuse tensors that are not exactly those of ``build()`` whose names start so, before memory is spent on it.

    Raises:
        UserError: names missing, unexpected or of another shape.
    """
    wanted = shapes_of(build)
    if wanted is None:
        return
    asked = {name: tensor for name, tensor in wanted.items() if name.startswith(prefixes)}
    if problems := match(asked, state, ("",))[1].problems():
        raise UserError(f"{where}: does not fit: {problems}")


def shapes_of(build: Callable[[], nn.Module]) -> dict[str, Tensor] | None:
    """State dict of ``build()`` without values or memory; None if the network cannot be built so (few cannot).

    Raises:
        UserError: as ``build``.
    """
    try:
        with torch.device("meta"):
            return build().state_dict()
    except UserError:
        raise
    except Exception:  # whatever a timm network makes of tensors without values
        return None


def trunk_of_detector(
    metadata: Mapping[str, Any], state: Mapping[str, Tensor], where: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Metadata and tensors of the trunk inside a fine-tuned detector (``plan`` in its metadata).

    Returns:
        Metadata with ``spec``, ``method``, ``classes``, the ``parts`` that hold all the detector has, ``trained``: just
        that, ``detector_size`` (side of its images in pixels) and ``roi_size`` (cells of its box head's windows;
        both None if it does not say); and the tensors.

    Raises:
        UserError: the plan is none.
    """
    plan = metadata["plan"]
    if not isinstance(plan, dict) or "spec" not in plan:
        raise UserError(f"{where}: its plan is {short(plan)}, not that of a detector of mcl")
    kept = {name: tensor for name, tensor in state.items() if OF_TRUNK.match(name)}
    pieces, settings, names = pieces_in(kept), plan.get("settings"), plan.get("names")
    return {
        "spec": plan["spec"], "method": "fine-tuned", "parts": least_parts(pieces), "trained": list(pieces),
        "classes": [str(name) for name in names] if isinstance(names, list) else [],
        "detector_size": _whole(plan.get("image_size"), *RANGES["image_size"]),
        "roi_size": roi_size_in(settings) if isinstance(settings, dict) else None,
    }, kept  # fmt: skip


def roi_size_in(told: Mapping[str, Any]) -> int | None:
    """Cells of the windows that a fine-tuned head knows, by a trunk's metadata; None: those of pre-training."""
    return _whole(told.get("roi_size"), 1, 28)


def _require_backbone(stored: Mapping[str, Any], state: Mapping[str, Tensor], where: str) -> None:
    """timm has it, and it is about as large as what the file holds of it."""
    name = stored["backbone"]
    if not isinstance(name, str) or not timm.is_model(name):
        near = did_you_mean(name, timm.list_models()) if isinstance(name, str) else ""
        raise UserError(f"{where}: its spec says backbone {short(name)}, which timm {timm.__version__} does not have{near}")
    wanted = shapes_of(lambda: timm.create_model(name, **({"num_classes": 0} if is_plain_vit(name) else {"features_only": True}))) or {}
    needed = sum(tensor.numel() for tensor in wanted.values())
    given = sum(tensor.numel() for key, tensor in state.items() if key.startswith(BODY))
    if needed > 4 * given:  # a file with some tensors of its backbone left away is another's business
        raise UserError(
            f"{where}: its spec says backbone {name}, which has {needed:,} numbers; the file has {given:,} of a backbone"
        )


def _checked_vit(stored: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What only a plain transformer has, where the spec has it."""
    for name, (low, high) in OF_VIT.items():
        if name in stored and _whole(stored[name], low, high) is None:
            raise UserError(f"{where}: its spec says {name} {short(stored[name])}; a whole number in {low}..{high} is needed")
    blocks = stored.get("global_blocks", ())
    if not isinstance(blocks, list | tuple) or any(_whole(block, 0, MOST_BLOCKS) is None for block in blocks):
        raise UserError(f"{where}: its spec says global_blocks {short(blocks)}; a list of numbers of blocks is needed")
    return {"global_blocks": tuple(blocks)} if blocks else {}


def _told_by_tensors(name: str, state: Mapping[str, Tensor]) -> int | None:
    """A number of the spec as the tensors have it; None: they do not tell."""
    if name == "head_convs":
        rows = {key.removeprefix(HEAD).partition(".")[0] for key in state if key.startswith(HEAD)}
        return len(rows) or None
    if name == "pyramid_channels":
        for key in (f"{FPN}layer_blocks.3.0.weight", f"{FPN}layer_blocks.0.0.weight", f"{HEAD}0.0.weight"):
            if key in state and state[key].dim() == 4:
                return state[key].shape[0]
    return None


def _three(name: str, values: Any, where: str) -> tuple[float, ...]:
    good = isinstance(values, list | tuple) and len(values) == 3 and all(type(value) in (int, float) for value in values)
    if not good or not all(map(math.isfinite, values)) or (name == "std" and min(values) <= 0):
        kind = "three positive numbers" if name == "std" else "three numbers"
        raise UserError(f"{where}: its spec says {name} {short(values)}; {kind} are needed")
    return tuple(float(value) for value in values)


def _whole(value: Any, low: int, high: int) -> int | None:
    return value if type(value) is int and low <= value <= high else None
