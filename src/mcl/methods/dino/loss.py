"""DINO's loss (arXiv 2104.14294, equation 3 and algorithm 1), and the head's last layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcl.methods.losses import at_least_fp32


class LastLayer(nn.Module):
    """Linear, without bias, whose rows all have length one (weight normalisation with a length that is not trained).

    lightly's is torch's old ``weight_norm``, which computes the weight in a hook and cannot be copied for a teacher.
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, channels))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, x: Tensor, fixed: Tensor) -> Tensor:
        """(n, C) -> (n, K); ``fixed``: 0-d bool, whether the weight gets no gradient."""
        weight = torch.where(fixed, self.weight.detach(), self.weight)
        return x @ F.normalize(weight, dim=1).to(x.dtype).T


def sharpened(outputs: Tensor, center: Tensor, temperature: Tensor) -> Tensor:
    """softmax((g - c) / T): (n, K) outputs of the teacher -> (n, K) probabilities, in fp32 or better."""
    return F.softmax((at_least_fp32(outputs) - center) / temperature, dim=-1)


def cross_entropies(
    students: Mapping[int, Tensor], teachers: Mapping[int, Tensor], temperature: float
) -> Tensor:
    """Mean over pairs of different views of H(teacher, student) = - sum of P_t log P_s, and over images: 0-d.

    lightly's ``DINOLoss`` has the same value, but moves the centre as it is computed, so that micro-batches would see
    different ones.

    Args:
        students: view -> (n, K) outputs of the online network.
        teachers: large view -> (n, K) probabilities, without gradient.
        temperature: of the online network.
    """
    logs = {view: F.log_softmax(at_least_fp32(found) / temperature, dim=-1) for view, found in students.items()}
    pairs = [-(teachers[t] * logs[s]).sum(dim=-1).mean() for t in teachers for s in logs if s != t]
    return torch.stack(pairs).mean()


def entropy(probabilities: Tensor) -> Tensor:
    """Mean over rows of - sum p log p, in nats; log K where all outputs are alike."""
    return -(probabilities * probabilities.clamp(min=1e-12).log()).sum(dim=-1).mean()
