"""Time that steps spend on exchanges, from made-up profiles."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch.autograd import DeviceType

from mcl.bench.exchanges import exchange_shares


def event(name, start, end, device=DeviceType.CPU, annotation=False):
    span = SimpleNamespace(start=start, end=end)
    return SimpleNamespace(name=name, time_range=span, device_type=device, is_user_annotation=annotation)


def test_only_exchanges_that_nothing_is_computed_beside_count():
    events = [
        event("step", 0, 100), event("aten::conv2d", 0, 30), event("gloo:all_gather", 30, 50),
        event("aten::add", 50, 60), event("gloo:all_reduce", 55, 90), event("gloo:all_reduce", 70, 80),
        event("aten::mul", 60, 65), event("step", 100, 110), event("aten::mul", 100, 110),
    ]  # fmt: skip
    (share, calls), alone = exchange_shares(events, "step")
    assert share == pytest.approx((20 + 25) / 100) and calls == 3
    assert alone == (0.0, 0)


def test_an_exchange_counts_inside_its_step_only():
    events = [event("step", 0, 10), event("gloo:all_reduce", 8, 14), event("step", 10, 20)]
    assert exchange_shares(events, "step") == [(0.2, 1), (0.4, 0)]


def test_on_a_gpu_kernels_count():
    gpu = DeviceType.CUDA
    events = [
        event("step", 0, 100), event("aten::conv2d", 0, 100), event("gloo:all_reduce", 0, 100),
        event("step", 0, 100, gpu, annotation=True), event("nccl:all_reduce", 20, 60, gpu, annotation=True),
        event("ncclDevKernel_AllReduce_Sum_f32", 20, 60, gpu), event("sgemm", 0, 30, gpu),
    ]  # fmt: skip
    assert exchange_shares(events, "step") == [(0.3, 1)]
