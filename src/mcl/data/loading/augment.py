"""Apply what was drawn to the crops of a batch: flip, colour jitter, grayscale, blur, solarize, on uint8 tensors.

Views that get the same operation are taken together, in parts that stay in a core's cache; on a GPU all at once. The
result does not depend on the parts, nor on the device: everything is integer arithmetic, view by view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from mcl.config.pretrain import ViewSettings
from mcl.data.loading import colour
from mcl.data.loading.blur import Kernels, blur
from mcl.data.loading.draws import BLUR, FACTORS, FLIP, GRAY, JITTERS, ORDER, ORDERS, SOLARIZE, UNJITTERED
from mcl.data.loading.parts import BLURRING, COLOUR, Span, unwatched

PIXELS_AT_ONCE = 2**17  # on a CPU: with 16 bits and a dozen numbers a pixel, what a core's own cache holds
_OPERATIONS: dict[str, Callable[[Tensor, np.ndarray, float], Tensor]] = {
    "brightness": colour.brighten, "contrast": colour.contrast, "saturation": colour.saturate, "hue": colour.turn_hue,
}  # fmt: skip


def apply_effects(
    views: Tensor, effects: np.ndarray, settings: ViewSettings, largest_radius: float, span: Span = unwatched
) -> Tensor:
    """Change views in place, in torchvision's order of operations, and return them.

    Args:
        views: (M, 3, S, S) uint8, contiguous.
        effects: (M, len(EFFECTS)) of ``draws.Drawn``.
        settings: strengths; factors lie within them.
        largest_radius: that blur can have for views of this size.
        span: told which part of the work goes on.
    """
    with span(COLOUR):
        _flip(views, np.flatnonzero(effects[:, FLIP]))
        _jitter(views, effects, settings)
        _gray(views, np.flatnonzero(effects[:, GRAY]))
    with span(BLURRING):
        _blur(views, np.flatnonzero(effects[:, BLUR]), effects[:, BLUR], largest_radius)
    with span(COLOUR):
        _solarize(views, np.flatnonzero(effects[:, SOLARIZE]), settings.solarize_threshold)
    return views


def _flip(views: Tensor, rows: np.ndarray) -> None:
    for part in _parts(views, rows):
        _put(views, part, _take(views, part, torch.uint8).view(-1, *views.shape[1:]).flip(-1))


def _jitter(views: Tensor, effects: np.ndarray, settings: ViewSettings) -> None:
    """Each view's own order: at every turn, the views whose turn it is for an operation are taken together."""
    orders = effects[:, ORDER].astype(int)
    turns = np.where((orders == UNJITTERED)[:, None], UNJITTERED, ORDERS[orders])  # (M, 4): number of the jitter
    for turn in turns.T:
        for number, name in enumerate(JITTERS):
            strength = getattr(settings, name)
            factors = effects[:, FACTORS.start + number]
            signs = (factors > 0, factors < 0) if name == "hue" else (True,)  # hue turns one way at a time
            for chosen in signs if strength else ():
                for rows in _parts(views, np.flatnonzero((turn == number) & chosen)):
                    _put(views, rows, _OPERATIONS[name](_take(views, rows), factors[rows], strength))


def _gray(views: Tensor, rows: np.ndarray) -> None:
    for part in _parts(views, rows):
        _put(views, part, colour.luminance(_take(views, part)))


def _blur(views: Tensor, rows: np.ndarray, radii: np.ndarray, largest: float) -> None:
    kernels = Kernels.up_to(largest)
    for part in _parts(views, rows) if kernels.reach else ():
        _put(views, part, blur(_take(views, part, torch.uint8).view(-1, *views.shape[1:]), radii[part], kernels))


def _solarize(views: Tensor, rows: np.ndarray, threshold: int) -> None:
    for part in _parts(views, rows):
        taken = _take(views, part, torch.uint8)
        bright = taken.ge(threshold).view(torch.uint8)
        _put(views, part, taken.bitwise_xor_(bright.mul_(255)))  # x ^ 255 = 255 - x


def _parts(views: Tensor, rows: np.ndarray) -> Iterator[np.ndarray]:
    if not len(rows):
        return
    most = max(1, PIXELS_AT_ONCE // views[0, 0].numel()) if views.device.type == "cpu" else len(rows)
    for start in range(0, len(rows), most):
        yield rows[start : start + most]


def _take(views: Tensor, rows: np.ndarray, dtype: torch.dtype = torch.int16) -> Tensor:
    """(m, 3, P) copy of some views."""
    chosen = torch.from_numpy(rows).to(views.device, non_blocking=True)
    return views.flatten(2).index_select(0, chosen).to(dtype)


def _put(views: Tensor, rows: np.ndarray, values: Tensor) -> None:
    values = values.to(torch.uint8)
    if views.device.type == "cpu":
        views.numpy()[rows] = values.view(len(rows), -1, *views.shape[2:]).numpy()  # torch's own takes ten times as long
    else:
        views[torch.from_numpy(rows).to(views.device, non_blocking=True)] = values.view(len(rows), -1, *views.shape[2:])
