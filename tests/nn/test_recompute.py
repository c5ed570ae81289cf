"""Recomputed activations: the same gradients and running statistics from less memory, in every family."""

from __future__ import annotations

import copy

import pytest
import torch

from mcl.nn.backbone import build_backbone, features_of
from mcl.nn.recompute import blocks_of, recompute_blocks


def _train_step(body: torch.nn.Module, images: torch.Tensor) -> tuple[list, int]:
    """Gradients, and how many bytes autograd keeps between forward and backward."""
    kept: dict[int, int] = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(0)  # for stochastic depth
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = sum(feature.square().mean() for feature in features_of(body, images))
    loss.backward()
    return [p.grad for p in body.parameters() if p.grad is not None], sum(kept.values())


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("resnet18", 8), ("convnext_atto", 12), ("test_vit", 6), ("regnety_002", 13), ("mobilenetv3_small_050", 12), ("swin_tiny_patch4_window7_224", 12)],
)  # fmt: skip
def test_same_gradients_and_statistics_from_less_memory(name, blocks):
    torch.manual_seed(0)
    plain = build_backbone(name, 64).train()
    other = copy.deepcopy(plain)
    assert len(list(blocks_of(plain))) == blocks == recompute_blocks(other)
    images = torch.randn(2, 3, 64, 64)
    gradients, bytes_kept = _train_step(plain, images)
    again, fewer_kept = _train_step(other, images)
    assert fewer_kept < 0.8 * bytes_kept
    for a, b in zip(gradients, again, strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=0)
    for (key, a), b in zip(plain.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


def test_a_copy_recomputes_its_own_blocks():
    body = build_backbone("test_resnet", 64).train()
    recompute_blocks(body)
    copied = copy.deepcopy(body)
    _train_step(copied, torch.randn(2, 3, 64, 64))
    assert all(p.grad is None for p in body.parameters())
