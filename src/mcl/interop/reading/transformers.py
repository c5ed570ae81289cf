"""Where the transformer is inside a self-supervised checkpoint, whose checkpoint it is, and which of timm's it is."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from mcl.interop.reading.prefixes import FOLLOWERS

FIRST = "patch_embed.proj.weight"
OF_BODY = re.compile(r"(cls_token|reg_token|pos_embed)$|(patch_embed|blocks|norm_pre)\.")
#: width -> timm's name for it
SIZES = {192: "vit_tiny_patch16_224", 384: "vit_small_patch16_224", 768: "vit_base_patch16_224", 1024: "vit_large_patch16_224", 1280: "vit_huge_patch14_224"}  # fmt: skip


def find_vit(state: Mapping[str, Tensor], container: str) -> tuple[str, dict[str, Tensor], list[str]] | None:
    """The plain transformer inside a state dict, under timm's names.

    Returns:
        Whose checkpoint it is, the tensors, and notes; None if no plain transformer is in it.
    """
    starts = [name.removesuffix(FIRST) for name in state if name == FIRST or name.endswith("." + FIRST)]
    starts = [start for start in starts if start + "pos_embed" in state and start + "blocks.0.attn.qkv.weight" in state]
    if not starts:
        return None
    start = min(starts, key=lambda found: (bool(FOLLOWERS.search(found)), len(found)))
    inside = {name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)}
    body = {name: tensor for name, tensor in inside.items() if OF_BODY.match(name)}
    notes = [f"backbone found under {start!r}"] if start else []
    if others := sorted(set(starts) - {start}):
        notes.append(f"not taken: {', '.join(map(repr, others))} (copies that follow the trained network)")
    if rest := [name for name in state if name.removeprefix(start) not in body]:
        notes.append(f"{len(rest)} tensors outside the backbone are left out ({', '.join(rest[:2])}, ...)")
    return _method(start, container, state), body, notes


def vit_name(body: Mapping[str, Tensor]) -> str | None:
    """timm's name of a network with these tensors; its patches may be others. None: not one of the usual sizes."""
    if FIRST not in body or body[FIRST].dim() != 4:
        return None
    return SIZES.get(body[FIRST].shape[0])


def _method(start: str, container: str, state: Mapping[str, Tensor]) -> str:
    names = list(state)
    if "base_encoder." in start:
        return "MoCo v3 ViT"
    if any("decoder_embed" in name or name == "mask_token" for name in names):
        return "MAE ViT"
    if container in ("teacher", "student") or any("head.last_layer" in name for name in names):
        return "DINO ViT"
    return "plain ViT" if not start else f"plain ViT under {start!r}"
