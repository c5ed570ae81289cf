"""Where the backbone is inside a self-supervised checkpoint, and whose checkpoint it is.

Every method saves a ResNet under names of its own (``module.encoder_q.``, ``online_net.0.``, ``teacher`` ...). The
ResNet is found by its first block; the beginning of that name tells the method.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

FIRST = "layer1.0.conv1.weight"
#: nn.Sequential(*resnet.children()) counts instead of naming: conv1 bn1 relu maxpool layer1 .. layer4
COUNTED = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
#: keys under which checkpoints keep their weights, the wanted one first (DINO: the teacher is what is evaluated)
CONTAINERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "model_state",
    "teacher",
    "student",
    "network",
    "net",
    "weights",
)
#: copies that follow the trained network; taken only when there is no other
FOLLOWERS = re.compile(r"encoder_k|momentum|target|key_encoder|ema|_t\.|_m\.")
#: (pattern on "beginning|container|whether other names occur", method), the first that fits
METHODS = (
    (r"^(module\.)?encoder_q\.0\.", "DenseCL / OpenSelfSup MoCo"),
    (r"^(module\.)?encoder_q\.", "MoCo v1/v2"),
    (r"base_encoder\.", "MoCo v3"),
    (r"online", "BYOL"),
    (r"^(module\.)?encoder\.", "SimSiam"),
    (r"^(module\.)?(backbone\.)?\|teacher|^(module\.)?(backbone\.)?\|student|head\.last_layer", "DINO"),
    (r"^(module\.)?\|.*prototypes", "SwAV"),
    (r"^\|", "torchvision / timm ResNet"),
    (r"^(module\.)?(backbone|model\.backbone)\.", "ResNet backbone (SimCLR, lightly, OpenMMLab)"),
)


def unpack(content: Any, depth: int = 4) -> tuple[dict[str, Tensor], str]:
    """The dictionary of tensors inside a checkpoint, at most ``depth`` containers deep, and its key ("" at the top)."""
    if not isinstance(content, Mapping) or depth == 0:
        return {}, ""
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if len(tensors) > 3:
        return tensors, ""
    for key in CONTAINERS:
        if isinstance(content.get(key), Mapping):
            inner, deeper = unpack(content[key], depth - 1)
            if inner:
                return inner, deeper or key
    return tensors, ""


def find_resnet(
    state: Mapping[str, Tensor], container: str
) -> tuple[str, dict[str, Tensor], list[str]] | None:
    """The ResNet inside a state dict, under torchvision's names.

    Returns:
        The method's name, the tensors, and notes; None if no ResNet is in it.
    """
    counted = FIRST.replace("layer1", "4")
    starts = [name.removesuffix(FIRST) for name in state if name == FIRST or name.endswith("." + FIRST)]
    sequential = [n.removesuffix(counted) for n in state if n == counted or n.endswith("." + counted)]
    both = [(start, False) for start in starts] + [(start, True) for start in sequential]
    if not both:
        return None
    start, counts = min(both, key=lambda found: (bool(FOLLOWERS.search(found[0])), len(found[0])))
    found = {name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)}
    if counts:
        found = {_uncounted(name): tensor for name, tensor in found.items()}
    body = {name: tensor for name, tensor in found.items() if re.match(r"(conv1|bn1|layer[1-4])\.", name)}
    notes = [f"backbone found under {start!r}"] if start else []
    others = sorted({other for other, _ in both} - {start})
    if others:
        notes.append(f"not taken: {', '.join(map(repr, others))} (copies that follow the trained network)")
    if len(state) > len(body):
        rest = [name for name in state if name.removeprefix(start) not in body and not counts][:2]
        notes.append(
            f"{len(state) - len(body)} tensors outside the backbone are left out"
            + (f" ({', '.join(rest)}, ...)" if rest else "")
        )
    return _method(start, container, state), body, notes


def _method(start: str, container: str, state: Mapping[str, Tensor]) -> str:
    marks = " ".join(
        mark for mark in ("prototypes", "head.last_layer") if any(mark in name for name in state)
    )
    description = f"{start}|{container} {marks}"
    return next(
        (method for pattern, method in METHODS if re.search(pattern, description)), f"ResNet under {start!r}"
    )


def _uncounted(name: str) -> str:
    number, dot, rest = name.partition(".")
    return COUNTED.get(number, number) + dot + rest
