"""Convolutions with the weight gradient as one matrix product against torch's own."""

import copy

import pytest
import torch
from torch import nn

from mcl.nn import convolution
from mcl.nn.convolution import MatrixGradientConv2d, use_matrix_gradients

SHAPES = [  # kernel, stride, padding, height, width
    (3, 1, 1, 2, 2), (3, 2, 1, 4, 4), (3, 1, 0, 5, 4), (1, 1, 0, 7, 3), (1, 2, 0, 8, 8), (5, 2, 2, 9, 6), ((1, 3), 1, (0, 1), 4, 5),
]  # fmt: skip


def gradients(layer: nn.Module, inputs: torch.Tensor) -> list[torch.Tensor]:
    inputs = inputs.clone().requires_grad_()
    out = layer(inputs)
    (out * torch.arange(out.numel(), dtype=out.dtype).view_as(out).sin()).sum().backward()
    return [out.detach(), inputs.grad, *(p.grad for p in layer.parameters())]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_torch(shape, bias, layout, monkeypatch):
    monkeypatch.setattr(convolution, "LEAST_CHANNELS", 6)
    kernel, stride, padding, height, width = shape
    plain = nn.Conv2d(6, 4, kernel, stride, padding, bias=bias).double().to(memory_format=layout)
    ours = copy.deepcopy(plain)
    assert use_matrix_gradients(ours) == 1 and isinstance(ours, MatrixGradientConv2d)
    inputs = torch.randn(3, 6, height, width, dtype=torch.float64).to(memory_format=layout)
    called = []
    monkeypatch.setattr(
        convolution, "weight_gradient", lambda *a, f=convolution.weight_gradient: called.append(1) or f(*a)
    )
    for expected, found in zip(gradients(plain, inputs), gradients(ours, inputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert called == [1]


def test_second_use_adds_up_and_frozen_weights_stay_plain(monkeypatch):
    monkeypatch.setattr(convolution, "LEAST_CHANNELS", 6)
    layer = nn.Conv2d(6, 6, 3, padding=1)
    use_matrix_gradients(layer)
    inputs = torch.randn(2, 6, 4, 4)
    layer(inputs).sum().backward()
    once = layer.weight.grad.clone()
    layer(inputs).sum().backward()
    torch.testing.assert_close(layer.weight.grad, 2 * once)
    assert "_Convolution" in layer(inputs).grad_fn.name()
    with torch.no_grad():
        assert layer(inputs).grad_fn is None
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(inputs).dtype == torch.bfloat16
    layer.weight.requires_grad_(False)
    assert "_Convolution" not in layer(inputs).grad_fn.name()


def test_only_plain_convolutions_with_enough_channels_are_changed():
    few, grouped = nn.Conv2d(255, 8, 1), nn.Conv2d(256, 256, 3, groups=2)
    dilated, mirrored = (
        nn.Conv2d(256, 8, 3, dilation=2),
        nn.Conv2d(256, 8, 3, padding=1, padding_mode="reflect"),
    )
    many = nn.Conv2d(256, 8, 3, padding="same"), nn.Conv2d(256, 8, 3)
    network = nn.Sequential(few, grouped, dilated, mirrored, *many)
    names = list(network.state_dict())
    assert use_matrix_gradients(network) == 1 and type(many[1]) is MatrixGradientConv2d
    assert list(network.state_dict()) == names


def test_many_cells_are_left_to_torch():
    layer = nn.Conv2d(256, 4, 1)
    use_matrix_gradients(layer)
    cells = convolution.MOST_ROWS
    few, many = torch.zeros(1, 256, 1, cells), torch.zeros(1, 256, 1, cells + 1)
    assert "_Convolution" in layer(few).grad_fn.name() and "_Convolution" not in layer(many).grad_fn.name()
