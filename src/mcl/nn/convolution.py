"""Convolutions whose weight gradient is one matrix product: quicker on CPUs, where maps are small and channels many.

oneDNN's own kernel for that gradient reaches a fifth to a half of a matrix product's speed on the last maps of a
backbone and on windows (measured for AVX2 by ``mcl bench step``: ``matched/all, plain``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LEAST_CHANNELS = 256  # of the input: with fewer, copying the patches costs what the product gains
MOST_ROWS = 8192  # output cells of a batch: above, oneDNN is as quick


class MatrixGradientConv2d(nn.Conv2d):
    """``nn.Conv2d`` with another way to the same weight gradient (up to rounding), where that is quicker."""

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, C_in, h, w) -> (n, C_out, h', w')."""
        if not self._is_quicker(inputs):
            return super().forward(inputs)
        return _Convolution.apply(inputs, self.weight, self.bias, self.stride, self.padding)

    def _is_quicker(self, inputs: Tensor) -> bool:
        return (
            inputs.device.type == "cpu"
            and torch.is_grad_enabled()
            and self.weight.requires_grad
            and inputs.dim() == 4
            and inputs.dtype in (torch.float32, torch.float64)
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
            and inputs.numel() // (self.in_channels * self.stride[0] * self.stride[1]) <= MOST_ROWS
        )


def use_matrix_gradients(module: nn.Module) -> int:
    """Let the convolutions inside ``module`` compute their weight gradients so, in place; names and weights stay.

    Returns:
        How many convolutions were changed: plain ones, neither grouped nor dilated, with enough channels.
    """
    changed = 0
    for conv in module.modules():
        if type(conv) is nn.Conv2d and conv.in_channels >= LEAST_CHANNELS and _is_ordinary(conv):
            conv.__class__ = MatrixGradientConv2d
            changed += 1
    return changed


def _is_ordinary(conv: nn.Conv2d) -> bool:
    padded = isinstance(conv.padding, tuple) and conv.padding_mode == "zeros"  # not "same"
    return padded and conv.groups == 1 and conv.dilation == (1, 1)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs, weight, bias, stride, padding):
        ctx.save_for_backward(inputs, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(inputs, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        inputs, weight = ctx.saved_tensors
        to_inputs = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            to_inputs = torch.nn.grad.conv2d_input(inputs.shape, weight, gradient, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            to_weight = weight_gradient(inputs, gradient, weight.shape[2:], ctx.stride, ctx.padding)
        if ctx.needs_input_grad[2]:
            to_bias = gradient.sum((0, 2, 3))
        return to_inputs, to_weight, to_bias, None, None


def weight_gradient(
    inputs: Tensor,
    gradient: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Tensor:
    """Gradient of a convolution's weight: gradients of all output cells times the patches that the cells saw.

    Args:
        inputs: (n, C_in, h, w) of the convolution.
        gradient: (n, C_out, h', w') of its output.

    Returns:
        (C_out, C_in, kernel), in channels_last layout.
    """
    patches = _patches(inputs, gradient.shape[2:], kernel, stride, padding)
    cells = gradient.permute(0, 2, 3, 1).reshape(len(patches), -1)
    product = cells.t() @ patches
    return product.view(-1, *kernel, inputs.shape[1]).permute(0, 3, 1, 2)


def _patches(inputs: Tensor, size: torch.Size, kernel, stride, padding) -> Tensor:
    """(n, C, h, w) -> (n * cells of the output, kernel cells * C): what each output cell sees, in NHWC order."""
    (rows, columns), (above, beside) = kernel, padding
    cells = inputs.permute(0, 2, 3, 1)
    if above or beside:  # padding by nothing would copy
        cells = F.pad(cells, (0, 0, beside, beside, above, above))
    n, _, _, channels = cells.shape
    batch, down, right, step = cells.stride()
    return cells.as_strided(
        (n, *size, rows, columns, channels), (batch, down * stride[0], right * stride[1], down, right, step)
    ).reshape(n * size[0] * size[1], rows * columns * channels)
