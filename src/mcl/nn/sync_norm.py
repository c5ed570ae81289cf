"""BatchNorm over the joint batch of all processes: torch's on GPUs, one of ours on CPUs, where torch's refuses."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronise_norms(module: nn.Module, device_type: str) -> nn.Module:
    """Replace every BatchNorm by one over all processes; parameters, buffers and their names stay.

    Args:
        module: whose norms (1-d, 2-d, with or without affine, timm's with an activation) are replaced, in place
            unless it is a norm itself.
        device_type: where it will run: ``cuda`` gets torch's SyncBatchNorm, anything else ``AllReduceNorm``.
    """
    if device_type == "cuda":
        return convert_sync_batchnorm(module)
    if isinstance(module, _BatchNorm):
        return AllReduceNorm.like(module)
    for name, child in module.named_children():
        setattr(module, name, synchronise_norms(child, device_type))
    return module


class AllReduceNorm(_BatchNorm):
    """BatchNorm of (n, C, ...) whose training statistics are those of all processes' inputs joined.

    Values, running statistics and gradients are those of ``nn.BatchNorm`` on the joined batch (gradients: of the sum
    of the processes' losses; a process's own share for weight and bias). Processes may bring different n, even 0.
    """

    @classmethod
    def like(cls, norm: _BatchNorm) -> AllReduceNorm:
        """One that shares the parameters and buffers of ``norm``, and does what timm's does after it."""
        made = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, device="meta")
        for name in ("weight", "bias"):
            made.register_parameter(name, getattr(norm, name))
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            made.register_buffer(name, getattr(norm, name))
        # timm's BatchNormAct2d: state-free modules that it calls itself
        made.after = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]
        return made.train(norm.training)

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, C, ...) -> the same shape and type."""
        normed = self._normalise(inputs) if self.training else super().forward(inputs)
        for module in self.after:
            normed = module(normed)
        return normed

    def _check_input_dim(self, inputs: Tensor) -> None:
        if inputs.dim() < 2:
            raise ValueError(f"expected (n, C, ...), got {tuple(inputs.shape)}")

    def _normalise(self, inputs: Tensor) -> Tensor:
        self._check_input_dim(inputs)
        mean, var, count = _joint_statistics(inputs.detach())
        if self.track_running_stats:
            self._track(mean, var, count)
        return _Normalise.apply(inputs, self.weight, self.bias, mean, var, count, self.eps)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        unbiased = var * (count / (count - 1).clamp(min=1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs, weight, bias, mean, var, count, eps):
        ctx.save_for_backward(inputs, weight, mean, (var + eps).rsqrt(), count)
        return F.batch_norm(inputs, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx, gradient):
        inputs, weight, mean, scale, count = ctx.saved_tensors
        dims, shape = _others(inputs), (1, -1, *[1] * (inputs.dim() - 2))
        gradient = gradient.to(mean.dtype)
        centred = inputs.to(mean.dtype) - mean.view(shape)
        own = torch.stack([gradient.sum(dims), (gradient * centred).sum(dims)])  # (2, C)
        joint = own.clone()
        dist.all_reduce(joint)
        through_mean, through_var = joint / count
        factor = scale if weight is None else scale * weight
        to_inputs = gradient - through_mean.view(shape) - centred * (scale**2 * through_var).view(shape)
        to_inputs = (to_inputs * factor.view(shape)).to(inputs.dtype)
        if weight is None:
            return to_inputs, None, None, None, None, None, None
        return to_inputs, (own[1] * scale).to(weight.dtype), own[0].to(weight.dtype), None, None, None, None


def _joint_statistics(inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), biased variance (C,) and 0-d count of all processes' values, at least in fp32."""
    inputs = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    channels, count = inputs.shape[1], inputs.numel() // inputs.shape[1]
    own = inputs.new_zeros(2 * channels + 1)
    if count:
        var, mean = torch.var_mean(inputs, _others(inputs), correction=0)
        own = torch.cat([mean, var, inputs.new_tensor([count])])
    everyone = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, own)
    means, variances, counts = torch.stack(everyone).split([channels, channels, 1], dim=1)
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    # Each process's variance around its own mean, moved to the joint mean: no difference of large squares.
    var = (counts * (variances + (means - mean) ** 2)).sum(0) / total
    return mean, var, total


def _others(inputs: Tensor) -> list[int]:
    return [0, *range(2, inputs.dim())]
