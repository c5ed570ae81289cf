"""A step never waits for the device: shown without one, on tensors that have a device and no data.

A tensor on device ``meta`` cannot be read, so ``.item()``, ``bool()``, ``.tolist()``, ``nonzero`` and ``.cpu()`` raise; what
would work, but stop the host until the device has caught up, is found by looking at every operation.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mcl.config.base import from_values
from mcl.config.pretrain import PretrainSettings
from mcl.data.loading.views import ViewMaker
from mcl.methods.build import wanted_of
from mcl.methods.registry import names, settings_of
from mcl.methods.step import TrainingStep, example_batch
from tiny import tiny

COPIES = ("_to_copy", "copy_")
READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique2", "_unique2")
SMALL = {"hidden": 16, "embedding": 8, "queue": 24, "bottleneck": 8}  # where a method has them
CASES = [
    *({"method.name": name} for name in names()),
    *({"method.name": name, "method.parts": "backbone+pyramid+head"} for name in names() if "parts" in settings_of(name).model_fields),
    {"method.queue": 24, "method.assignment": "all"}, {"method.labels": True}, {"method.layout": "batch"},
    {"method.dense_weight": 0.5}, {"method.layout": "scattered"}, {"method.loss": "vicreg", "method.predictor": False},
    {"method.encode": "exhaustive"}, {"accumulate": 2}, {"optim.name": "lars"}, {"optim.name": "sgd"},
    {"loop.activation_checkpointing": True},
]  # fmt: skip
BOXES = [{"method.layout": "scattered", "method.localise": True}, {"method.regions_weight": 1.0}]
OTHER = {"mae": {"model.backbone": "test_vit", "model.patch_size": 8}}


class Lists(TorchFunctionMode):
    """Counts tensors that are made on a device from numbers of the host: a blocking copy that no operation shows."""

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (torch.tensor, torch.as_tensor) and torch.device((kwargs or {}).get("device") or "cpu").type == "meta":
            self.found["tensor"] += 1
        return function(*args, **(kwargs or {}))


class Waiting(TorchDispatchMode):
    """Counts what makes the host wait for a device: reading a tensor of it, and blocking copies to it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.operations = 0
        self.lists = Lists(self.found)

    def __enter__(self):
        self.lists.__enter__()
        return super().__enter__()

    def __exit__(self, *given):
        super().__exit__(*given)
        self.lists.__exit__(*given)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, function.overloadpacket.__name__
        self.operations += 1
        if self._waits(name, args, kwargs):
            self.found[name] += 1
        return function(*args, **kwargs)

    @staticmethod
    def _waits(name: str, args: tuple, kwargs: dict) -> bool:
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        there = {tensor.is_meta for tensor in given if tensor.ndim or name in COPIES}
        if name == "_to_copy":
            goes = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "meta"
            return goes and not given[0].is_meta and not kwargs.get("non_blocking")
        if name == "copy_":
            return len(there) == 2 and not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
        return len(there) == 2 or (name in READS and True in there)  # an index from the host is copied, and waited for


def settings(case: dict) -> PretrainSettings:
    name = case.get("method.name", "mcl")
    small = {f"method.{key}": value for key, value in SMALL.items() if key in settings_of(name).model_fields and name != "mcl"}
    return from_values(PretrainSettings, {**tiny(), **small, **OTHER.get(name, {}), "data": "a", "out": "b", "image_size": 64, **case})


def ids(case: dict) -> str:
    return " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in case.items())


def two_steps(case: dict) -> Waiting:
    recipe = settings(case)
    step = TrainingStep(recipe, "meta")
    step.batch = example_batch(recipe, "cpu")  # as the loader hands it over
    with Waiting() as waiting:
        step(), step()
    assert waiting.operations > 500
    return waiting


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_a_step_on_a_batch_of_the_loader_never_waits(case):
    assert not two_steps(case).found


@pytest.mark.parametrize("case", BOXES, ids=ids)
def test_with_boxes_only_the_librarys_coder_waits(case):
    """torchvision's BoxCoder makes its constants on the device at every call."""
    assert set(two_steps(case).found) == {"tensor"}


@pytest.mark.parametrize(
    "reads", [lambda t: t.sum().item(), lambda t: bool(t.any()), lambda t: t.tolist(), lambda t: t.cpu(), lambda t: t.nonzero()]
)
def test_what_reads_a_tensor_without_data_fails(reads):
    with pytest.raises((RuntimeError, NotImplementedError)):
        reads(torch.ones(3, device="meta"))


@pytest.mark.parametrize(
    ("wait", "name"),
    [
        (lambda there, here: here.to("meta"), "_to_copy"),
        (lambda there, here: there.copy_(here), "copy_"),
        (lambda there, here: there[here.long()], "index"),
        (lambda there, here: torch.tensor([1.0, 2.0], device=there.device), "tensor"),
    ],
)
def test_what_waits_is_found(wait, name):
    there, here = torch.ones(3, device="meta"), torch.ones(3)
    with Waiting() as waiting:
        wait(there, here)
    assert waiting.found == {name: 1}


def test_what_does_not_wait_is_not():
    there, here = torch.ones(3, device="meta"), torch.ones(3)
    with Waiting() as waiting:
        there.copy_(here, non_blocking=True)
        there[here.long().to("meta", non_blocking=True)]
        assert float(here.sum()) == 3 and there * 2 is not None
    assert not waiting.found


def test_views_that_are_finished_on_the_device_do_not_wait():
    recipe = settings({})
    maker = ViewMaker(recipe.views, wanted_of(recipe), recipe.seed)
    drawn = maker.draw(range(8), range(8))
    joined: Counter[int] = Counter(spec.augmented for spec in maker.wanted.views)
    cuts = {side: torch.empty(8 * views, 3, side, side, dtype=torch.uint8, device="meta") for side, views in joined.items()}
    with Waiting() as waiting:
        maker.finish(cuts, drawn.effects)
    assert waiting.operations > 20 and not waiting.found
