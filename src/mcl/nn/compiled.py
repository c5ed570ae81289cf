"""torch.compile for the parts of a trunk, with a way back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mcl.nn.backbone import features_of
from mcl.nn.trunk import Trunk


def compile_trunks(trunks: Sequence[Trunk], image: Tensor) -> str | None:
    """Compile backbone and head of trunks in place; parameter names stay as they are.

    The first trunk is tried on one image at once, for what torch.compile cannot do (no C++ compiler, an operation it
    does not know) otherwise shows in the middle of a run.

    Args:
        trunks: online and target.
        image: (n, 3, S, S) in the device, type and memory format of training.

    Returns:
        None, or why nothing was compiled; the trunks then run as before.
    """
    parts = [part for trunk in trunks for part in (trunk.backbone.body, trunk.roi_heads.box_head)]
    states = [trunk.state_dict() for trunk in trunks]
    kept = [{name: tensor.clone() for name, tensor in state.items()} for state in states]
    for part in parts:
        part.compile()
    try:
        with torch.enable_grad():
            _try_one_step(trunks[0], image)
    except Exception as error:  # torch.compile fails in many ways: compilers, drivers, graph breaks
        for part in parts:
            part._compiled_call_impl = None
        torch._dynamo.reset()
        return " ".join(str(error).split())[:200] or type(error).__name__
    finally:
        for trunk, state in zip(trunks, kept, strict=True):
            trunk.load_state_dict(state)
            trunk.zero_grad(set_to_none=True)
    return None


def _try_one_step(trunk: Trunk, image: Tensor) -> None:
    features = features_of(trunk.backbone.body, image)
    window = trunk.spec.window
    cells = image.new_zeros(len(image), trunk.out_channels, window, window, requires_grad=True)
    head = trunk.roi_heads.box_head(cells)
    loss = head.float().mean() + sum(feature.float().mean() for feature in features)
    loss.backward()
