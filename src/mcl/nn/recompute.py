"""Activation checkpointing: keep a backbone's block inputs only, and compute the rest again in backward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint


def recompute_blocks(body: nn.Module) -> int:
    """Make every residual block (or what a family has in its place) recompute its activations in backward.

    Results stay the same: the running statistics of BatchNorms are not touched a second time, and random layers
    draw the same numbers again. Without gradients nothing changes.

    Args:
        body: a timm feature network.

    Returns:
        Number of blocks; 0 if the family's structure is not known (nothing is changed then).
    """
    blocks = list(blocks_of(body))
    for block in blocks:
        block.forward = partial(
            checkpoint, block.forward, use_reentrant=False, context_fn=partial(_contexts, block)
        )
    return len(blocks)


def blocks_of(body: nn.Module) -> Iterator[nn.Module]:
    """Residual blocks of a feature network: what its stages, or their ``blocks``, are lists of."""
    for child in body.children():
        inner = getattr(child, "blocks", child)
        if isinstance(inner, nn.Sequential):
            yield from _blocks_in(inner)
        elif len({type(part) for part in child.children()}) == 1:  # RegNet's stages are no Sequential
            yield from child.children()


def _blocks_in(sequence: nn.Sequential) -> Iterator[nn.Module]:
    for child in sequence:
        if isinstance(child, nn.Sequential):
            yield from _blocks_in(child)
        elif any(True for _ in child.children()):  # not a bare convolution or norm of a deep stem
            yield child


def _contexts(block: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    return nullcontext(), _statistics_kept(block)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Within, BatchNorms in training normalise by the batch as ever but leave their running statistics alone."""
    norms = [m for m in block.modules() if isinstance(m, _NormBase) and m.training and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked -= 1
