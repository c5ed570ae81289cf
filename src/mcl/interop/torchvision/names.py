"""torchvision's ConvNeXt and Swin under timm's names (both count modules where timm names them)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

#: (blocks of the four stages, channels of the first) -> timm's name
NAMES = {
    ("convnext", (3, 3, 9, 3), 96): "convnext_tiny",
    ("convnext", (3, 3, 27, 3), 96): "convnext_small",
    ("convnext", (3, 3, 27, 3), 128): "convnext_base",
    ("convnext", (3, 3, 27, 3), 192): "convnext_large",
    ("swin", (2, 2, 6, 2), 96): "swin_tiny_patch4_window7_224",
    ("swin", (2, 2, 18, 2), 96): "swin_small_patch4_window7_224",
    ("swin", (2, 2, 18, 2), 128): "swin_base_patch4_window7_224",
}
CONVNEXT = {
    "block.0": "conv_dw",
    "block.2": "norm",
    "block.3": "mlp.fc1",
    "block.5": "mlp.fc2",
    "layer_scale": "gamma",
}
SWIN = {"mlp.0": "mlp.fc1", "mlp.3": "mlp.fc2"}


def from_torchvision(state: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]] | None:
    """timm's name of the network and its tensors; None unless it is torchvision's ConvNeXt or Swin."""
    if (
        "features.0.0.weight" not in state
        or "features.1.0.norm1.weight" not in state
        and "features.1.0.layer_scale" not in state
    ):
        return None
    family = "convnext" if "features.1.0.layer_scale" in state else "swin"
    counts = tuple(
        len({n.split(".")[2] for n in state if re.match(rf"features\.{stage}\.\d+\.", n)})
        for stage in (1, 3, 5, 7)
    )
    name = NAMES.get((family, counts, state["features.0.0.weight"].shape[0]))
    rename = _convnext if family == "convnext" else _swin
    renamed = {}
    for old, tensor in state.items():
        new = rename(old)
        if new is not None:
            # torchvision keeps layer_scale as (C, 1, 1), timm as (C,)
            renamed[new] = tensor.flatten() if new.endswith(".gamma") else tensor
    return (name or family), renamed


def _convnext(name: str) -> str | None:
    if found := re.fullmatch(r"features\.0\.([01])\.(\w+)", name):
        return f"stem.{found[1]}.{found[2]}"
    if found := re.fullmatch(r"features\.([246])\.([01])\.(\w+)", name):
        return f"stages.{int(found[1]) // 2}.downsample.{found[2]}.{found[3]}"
    if found := re.fullmatch(r"features\.([1357])\.(\d+)\.(layer_scale|block\.\d)(\.\w+)?", name):
        return f"stages.{int(found[1]) // 2}.blocks.{found[2]}.{CONVNEXT[found[3]]}{found[4] or ''}"
    return name if not name.startswith("features.") else None


def _swin(name: str) -> str | None:
    if found := re.fullmatch(r"features\.0\.([02])\.(\w+)", name):
        return f"patch_embed.{'proj' if found[1] == '0' else 'norm'}.{found[2]}"
    if found := re.fullmatch(r"features\.([246])\.(\w+)\.(\w+)", name):
        return f"layers.{int(found[1]) // 2}.downsample.{found[2]}.{found[3]}"
    if found := re.fullmatch(r"features\.([1357])\.(\d+)\.(.+)", name):
        rest = found[3]
        if rest.endswith("relative_position_index"):
            return None  # a constant, which timm computes
        for theirs, ours in SWIN.items():
            rest = re.sub(rf"^{re.escape(theirs)}\.", f"{ours}.", rest)
        return f"layers.{int(found[1]) // 2}.blocks.{found[2]}.{rest}"
    return name if not name.startswith("features.") else None
