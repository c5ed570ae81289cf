"""torch.compile of trunk parts: same features where it works, a reason and an unchanged trunk where it does not."""

from __future__ import annotations

import pytest
import torch

from mcl.nn.compiled import compile_trunks
from mcl.nn.trunk import Trunk, TrunkSpec

SPEC = TrunkSpec("test_resnet", 16, 2, 64)


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 64)


def test_without_a_compiler_the_trunk_runs_as_before(images, monkeypatch):
    trunk = Trunk(SPEC).train()
    before = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}

    def broken(*_, **__):
        raise RuntimeError("no C++ compiler\nwas found")

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", broken)
    reason = compile_trunks([trunk], images)
    assert reason and "no C++ compiler was found" in reason
    assert all(torch.equal(tensor, before[name]) for name, tensor in trunk.state_dict().items())
    assert list(trunk.state_dict()) == list(before)
    assert trunk(images)["p5"].shape == (2, 16, 2, 2)


@pytest.mark.faults  # half a minute of compiling
def test_compiled_features_are_the_same(images):
    torch.manual_seed(0)
    # In float64, where another order of sums is far below the bound.
    trunk, images = Trunk(SPEC).double().eval(), images.double()
    with torch.no_grad():
        plain = trunk(images)
        assert compile_trunks([trunk], images) is None
        assert trunk.backbone.body._compiled_call_impl is not None
        compiled = trunk(images)
    for level, features in plain.items():
        torch.testing.assert_close(compiled[level], features, rtol=1e-9, atol=1e-11)
