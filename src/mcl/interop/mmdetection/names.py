"""MMDetection's names against the trunk's."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mcl.interop.writing.plain_rcnn import Names

#: the trunk's beginning of a name -> MMDetection's; ``{0, 1}`` of a block is its ``conv`` and ``bn``
PREFIXES = {
    "backbone.body.": "backbone.",
    "backbone.fpn.inner_blocks.": "neck.lateral_convs.",
    "backbone.fpn.layer_blocks.": "neck.fpn_convs.",
    "roi_heads.box_head.": "roi_head.bbox_head.shared_convs.",
}
BLOCK = {"0": "conv", "1": "bn"}
BLOCK_BACK = {theirs: ours for ours, theirs in BLOCK.items()}
#: of the R-CNN that its config builds
NAMES = Names(
    stem=("backbone.conv1", "backbone.bn1"),
    block=("backbone.layer{layer}.{block}.conv{conv}", "backbone.layer{layer}.{block}.bn{conv}"),
    shortcut=("backbone.layer{layer}.{block}.downsample.0", "backbone.layer{layer}.{block}.downsample.1"),
    lateral=("neck.lateral_convs.{row}.conv", "neck.lateral_convs.{row}.bn"),
    output=("neck.fpn_convs.{row}.conv", "neck.fpn_convs.{row}.bn"),
    head=("roi_head.bbox_head.shared_convs.{row}.conv", "roi_head.bbox_head.shared_convs.{row}.bn"),
)


def to_mmdetection(name: str) -> str:
    """``backbone.fpn.inner_blocks.0.1.weight`` -> ``neck.lateral_convs.0.bn.weight``."""
    for ours, theirs in PREFIXES.items():
        if name.startswith(ours):
            rest = name.removeprefix(ours)
            return theirs + (rest if theirs == "backbone." else _exchange(rest, BLOCK))
    raise KeyError(name)


def from_mmdetection(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The trunk's tensors of an MMDetection checkpoint; others are left out."""
    found = {}
    for name, tensor in state.items():
        for ours, theirs in PREFIXES.items():
            if name.startswith(theirs):
                rest = name.removeprefix(theirs)
                found[ours + (rest if theirs == "backbone." else _exchange(rest, BLOCK_BACK))] = tensor
    return found


def _exchange(rest: str, names: Mapping[str, str]) -> str:
    """``2.0.weight`` <-> ``2.conv.weight``: the second step."""
    index, dot, rest = rest.partition(".")
    step, other_dot, leaf = rest.partition(".")
    return index + dot + names.get(step, step) + other_dot + leaf
