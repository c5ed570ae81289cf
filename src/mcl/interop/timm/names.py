"""Names of timm's whole networks against those of its ``features_only`` form, which a trunk's backbone is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from torch import Tensor

#: what a classification network has after C5, and a features_only network has not
TAIL = (
    "fc.",
    "head.",
    "head_",
    "classifier.",
    "conv_head.",
    "bn2.",
    "norm_head.",
    "norm.",
    "final_conv.",
    "last_linear.",
    "heads.",
    "attn_pool.",
    "fc_norm.",
    "head_dist.",
    "dist_token",
)


def whole_name(features_name: str, whole: Iterable[str]) -> str | None:
    """``stages_0.blocks.0.norm.weight`` -> ``stages.0.blocks.0.norm.weight``, if the whole network calls it so.

    timm's FeatureListNet joins the first two steps of a name by an underscore for some families.
    """
    for candidate in (
        features_name,
        re.sub(r"^(\w+?)_(\w+)\.", r"\1.\2.", features_name),
        _last_joint(features_name),
    ):
        if candidate in whole:
            return candidate
    return None


def to_features(given: Mapping[str, Tensor], wanted: Iterable[str]) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the tensors of a whole network to the names of its features_only form.

    Args:
        given: names with or without a common prefix such as ``module.`` or ``backbone.``.
        wanted: names of the features_only network.

    Returns:
        Renamed tensors (those without a counterpart under their own name), and the names of the classifier's
        tensors, which are left out.
    """
    wanted = set(wanted)
    given = strip_prefix(given, wanted)
    renamed: dict[str, Tensor] = {}
    for name in wanted:
        source = whole_name(name, given)
        if source is not None:
            renamed[name] = given[source]
    used = {whole_name(name, given) for name in renamed}
    rest = {name: tensor for name, tensor in given.items() if name not in used}
    tail = sorted(name for name in rest if name.startswith(TAIL))
    renamed.update({name: tensor for name, tensor in rest.items() if name not in tail})
    return renamed, tail


def strip_prefix(given: Mapping[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """Take away the prefix under which most of the wanted names are found."""
    under = Counter(name[: dot.end()] for name in given for dot in re.finditer(r"\.", name))
    # A prefix of the whole network holds at least half as many names as are wanted.
    prefixes = ["", *(prefix for prefix, count in under.items() if 2 * count >= len(wanted))]
    found = {prefix: _count(given, prefix, wanted) for prefix in prefixes}
    best = max(prefixes, key=lambda prefix: (found[prefix], -len(prefix)))
    return {name.removeprefix(best): tensor for name, tensor in given.items() if name.startswith(best)}


def _count(given: Mapping[str, Tensor], prefix: str, wanted: set[str]) -> int:
    inside = {name.removeprefix(prefix) for name in given if name.startswith(prefix)}
    return sum(whole_name(name, inside) is not None for name in wanted)


def _last_joint(name: str) -> str:
    """``layers_0_x.y`` with the joint at the first step's last underscore."""
    head, dot, rest = name.partition(".")
    before, _, after = head.rpartition("_")
    return f"{before}.{after}{dot}{rest}"
