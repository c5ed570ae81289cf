"""Detectron2's names (method: Transfer) against the trunk's, and Caffe2's against Detectron2's."""

from __future__ import annotations

import re

from mcl.interop.writing.plain_rcnn import Names


def _with_norm(conv: str) -> tuple[str, str]:
    return conv, f"{conv}.norm"


#: of the R-CNN that its configuration builds
NAMES = Names(
    stem=_with_norm("backbone.bottom_up.stem.conv1"),
    block=_with_norm("backbone.bottom_up.res{stage}.{block}.conv{conv}"),
    shortcut=_with_norm("backbone.bottom_up.res{stage}.{block}.shortcut"),
    lateral=_with_norm("backbone.fpn_lateral{level}"),
    output=_with_norm("backbone.fpn_output{level}"),
    head=_with_norm("roi_heads.box_head.conv{number}"),
)
#: rule of a block: (trunk's, Detectron2's)
BLOCK = (
    (r"bn(\d)\.", r"conv\1.norm."),
    (r"downsample\.0\.", "shortcut."),
    (r"downsample\.1\.", "shortcut.norm."),
)
BLOCK_BACK = (
    (r"conv(\d)\.norm\.", r"bn\1."),
    (r"shortcut\.norm\.", "downsample.1."),
    (r"shortcut\.", "downsample.0."),
)
FPN = {"inner": "lateral", "layer": "output"}
FPN_BACK = {theirs: ours for ours, theirs in FPN.items()}


def to_detectron2(name: str) -> str:
    """``backbone.body.layer1.0.bn2.weight`` -> ``backbone.bottom_up.res2.0.conv2.norm.weight``."""
    if found := re.fullmatch(r"backbone\.body\.layer(\d)\.(\d+)\.(.+)", name):
        return f"backbone.bottom_up.res{int(found[1]) + 1}.{found[2]}.{_rename(found[3], BLOCK)}"
    if found := re.fullmatch(r"backbone\.body\.(.+)", name):
        return f"backbone.bottom_up.stem.{_rename(found[1], BLOCK)}"
    if found := re.fullmatch(r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.([01])\.(\w+)", name):
        return f"backbone.fpn_{FPN[found[1]]}{int(found[2]) + 2}.{_norm(found[3])}{found[4]}"
    if found := re.fullmatch(r"roi_heads\.box_head\.(\d+)\.([01])\.(\w+)", name):
        return f"roi_heads.box_head.conv{int(found[1]) + 1}.{_norm(found[2])}{found[3]}"
    raise KeyError(name)


def from_detectron2(name: str) -> str | None:
    """The trunk's name; None for what no trunk has (proposals, predictors, masks). Leading parts may be absent."""
    name = re.sub(r"^(backbone\.)?(bottom_up\.)?", "", name)
    if found := re.fullmatch(r"res(\d)\.(\d+)\.(.+)", name):
        return f"backbone.body.layer{int(found[1]) - 1}.{found[2]}.{_rename(found[3], BLOCK_BACK)}"
    if found := re.fullmatch(r"stem\.(.+)", name):
        return f"backbone.body.{_rename(found[1], BLOCK_BACK)}"
    if found := re.fullmatch(r"fpn_(lateral|output)(\d)\.(norm\.)?(\w+)", name):
        return (
            f"backbone.fpn.{FPN_BACK[found[1]]}_blocks.{int(found[2]) - 2}.{int(bool(found[3]))}.{found[4]}"
        )
    if found := re.fullmatch(r"(?:roi_heads\.)?box_head\.conv(\d{1,3})\.(norm\.)?(\w+)", name):
        return f"roi_heads.box_head.{int(found[1]) - 1}.{int(bool(found[2]))}.{found[3]}"
    return None


def from_caffe2(name: str) -> str:
    """Caffe2's ``res2_0_branch2a_bn_s`` -> Detectron2's ``res2.0.conv1.norm.weight`` (backbone only)."""
    name = re.sub(r"^res_conv1_bn_", "conv1_bn_", name)
    name = re.sub(r"^conv1_", "stem_conv1_", name)
    for theirs, ours in (
        ("branch1", "shortcut"),
        ("branch2a", "conv1"),
        ("branch2b", "conv2"),
        ("branch2c", "conv3"),
    ):
        name = name.replace(theirs, ours)
    for end, leaf in (("_bn_s", ".norm.weight"), ("_bn_b", ".norm.bias"), ("_w", ".weight"), ("_b", ".bias")):
        if name.endswith(end):
            return name.removesuffix(end).replace("_", ".") + leaf
    return name


def _rename(rest: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        renamed, count = re.subn("^" + pattern, replacement, rest)
        if count:
            return renamed
    return rest


def _norm(position: str) -> str:
    return "norm." if position == "1" else ""
