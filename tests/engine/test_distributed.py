"""What processes of a run tell each other, where they find each other, and that none waits for a dead one."""

from __future__ import annotations

import os
import time

import pytest
import torch

from mcl.data.loading.loader import StepSampler
from mcl.engine.processes import distributed
from mcl.engine.processes.distributed import Agreement, per_process, rank
from mcl.engine.processes.gradients import GradientAverage
from mcl.engine.processes.launch import Place, find_place, first_host
from mcl.errors import RunFailed, UserError
from ranks import on_ranks, slurm_names, start_ranks


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, Place()),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Place()),
        (
            {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "5"},
            Place(3, 4, 1, "a", 5),
        ),
        (
            {
                "SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_NODELIST": "gpu[07-09]",
                "SLURM_JOB_ID": "123456", "SLURM_STEP_ID": "0",
            },
            Place(5, 8, 1, "gpu07", 23456),
        ),
        # torchrun inside srun: torchrun's count
        (
            {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "m", "MASTER_PORT": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"},
            Place(1, 2, 1, "m", 1),
        ),
        # the batch script itself, without srun
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"}, Place()),
    ],
)  # fmt: skip
def test_where_a_process_is(environment, place):
    assert find_place(environment) == place


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "ranks go from 0 to 1"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK='x' is not a number"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "neither MASTER_ADDR"),
    ],
)
def test_an_environment_that_makes_no_sense(environment, words):
    with pytest.raises(UserError, match=words):
        find_place(environment)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("a1", "a1"), ("a1,b2", "a1"), ("gpu[007-009,12],cpu1", "gpu007"), ("n[3,5]-ib", "n3-ib")],
)
def test_first_host_of_a_node_list(nodes, first):
    assert first_host(nodes) == first


@pytest.mark.parametrize("images,batch", [(40, 8), (43, 8), (5, 8)])
@pytest.mark.parametrize("before,after", [(2, 1), (2, 4), (1, 2)])
def test_another_number_of_processes_continues_the_epoch(images, batch, before, after):
    """Started with ``before`` processes, resumed with ``after``: the same images in every step, none twice or never."""
    total, stop = 3 * max(1, images // batch), max(1, images // batch) // 2 + 1

    def seen(processes: int, start: int, end: int) -> list[list[tuple[int, int]]]:
        shares = [
            list(StepSampler(images, batch, 1, start, end, rank, processes)) for rank in range(processes)
        ]
        return [[key for share in step for key in share] for step in zip(*shares, strict=True)]

    steps = seen(before, 0, stop) + seen(after, stop, total)
    assert steps == list(StepSampler(images, batch, 1, 0, total))
    for epoch in range(3):
        order = [i for step in steps for e, i in step if e == epoch]
        if images >= batch:
            assert len(set(order)) == len(order) == images // batch * batch


def talk() -> dict:
    """Exchanges of every kind, on one rank."""
    mine, found = rank(), {}
    found["rows"] = distributed.all_gather_rows(torch.arange(4.0).view(2, 2).t() + 10 * mine)
    found["mean"] = distributed.all_reduce_mean(torch.tensor([mine, 1.0]))
    found["main"] = distributed.broadcast_object(lambda: {"rank": rank()})
    order: list[int] = []
    distributed.main_first(lambda: order.append(time.monotonic_ns()))
    found["order"] = order
    found["objects"] = distributed.gather_objects([mine])
    module = torch.nn.Conv2d(2, 3, 2).to(memory_format=torch.channels_last)
    torch.nn.init.constant_(module.weight, mine)
    distributed.broadcast_module(module)
    found["weight"] = module.weight.detach().mean()
    agreement, answers = Agreement(), []
    for step in range(3):
        agreement.give(15 if (step, mine) == (1, 1) else 0)
        answers.append(agreement.largest(newest=99))
    found["agreed"] = answers
    for name, call in {
        "indivisible": lambda: per_process(7),
        "differ": lambda: distributed.require_same(5 + mine, "the number of images"),
    }.items():
        with pytest.raises(UserError) as error:
            call()
        found[name] = str(error.value)
    found["gradients"] = gradients()
    return found


def gradients() -> list:
    """Of two backwards, the last one averaged; of parameters that all, one or no process uses."""
    torch.manual_seed(0)
    every, one, none, late = (torch.nn.Parameter(torch.randn(3, 4)) for _ in range(4))
    average = GradientAverage([every, one, none, late], bucket_mb=1e-6)
    (every * (rank() + 1)).sum().backward()
    loss = (every * (rank() + 1)).sum() + (late**2).sum()
    average.last(loss + 4 * one.sum() if rank() == 1 else loss).backward()
    torch.testing.assert_close(late.grad, 2 * late.detach())
    return [every.grad, one.grad, none.grad]


@pytest.mark.parametrize("names", [None, slurm_names], ids=["torchrun", "slurm"])
def test_what_two_processes_exchange(names):
    first, second = on_ranks(2, talk, **({"names": names} if names else {}))
    rows = torch.tensor([[0.0, 2.0], [1.0, 3.0]])
    assert torch.equal(first["rows"], torch.stack([rows, rows + 10])) and torch.equal(first["rows"], second["rows"])
    assert first["mean"].tolist() == second["mean"].tolist() == [0.5, 1.0]
    assert first["main"] == second["main"] == {"rank": 0}
    assert first["order"] < second["order"]
    assert first["objects"] == [[0], [1]] and second["objects"] is None
    assert first["weight"] == second["weight"] == 0
    assert first["agreed"] == second["agreed"] == [0, 15, 0]
    assert "--batch 7" in first["indivisible"] and "give 6 or 8" in first["indivisible"]
    assert "rank 1 has 6" in second["differ"]
    for found in (first, second):
        every, one, none = found["gradients"]
        assert none is None and torch.equal(every, torch.full((3, 4), 3.0))
        assert torch.equal(one, torch.full((3, 4), 2.0))


def test_alone_nothing_is_exchanged():
    row = torch.ones(2)
    assert torch.equal(distributed.all_gather_rows(row), row[None]) and distributed.all_reduce_mean(row) is row
    assert distributed.gather_objects(3) == distributed.all_gather_objects(3) == [3] and per_process(7) == 7
    assert distributed.main_first(lambda: 4) == distributed.broadcast_object(lambda: 4) == 4


def fail(how: str) -> None:
    """Rank 1 (or with ``main``, rank 0) fails while the other waits for it."""
    distributed.barrier()  # both have started
    if how == "main" and rank() == 0:
        os.kill(os.getpid(), 9)
    if how != "main" and rank() == 1:
        if how == "killed":
            os.kill(os.getpid(), 9)
        raise {"user": UserError("a bad value"), "failed": RunFailed("loss is nan"), "bug": KeyError("x")}[how]
    distributed.barrier()


@pytest.mark.parametrize(("how", "codes"), [("user", (2, 2)), ("failed", (3, 3)), ("bug", (1, 1)), ("killed", (3, -9)), ("main", (-9, 3))])
@pytest.mark.parametrize("names", [slurm_names], ids=["slurm"])  # no launcher that would help
def test_a_rank_that_fails_ends_all(capfd, names, how, codes):
    started = time.monotonic()
    pairs = start_ranks(2, fail, how, names=names)
    for process, _ in pairs:
        process.join(120)
    assert tuple(process.exitcode for process, _ in pairs) == codes
    assert time.monotonic() - started < 120  # a minute to start, and the minute that is promised
    errors = capfd.readouterr().err
    words = {"user": "rank 1 of 2: a bad value", "failed": "rank 1 of 2: loss is nan", "bug": "KeyError: 'x'"}
    words["killed"] = words["main"] = "another process of this run died without a message"
    assert errors.count(words[how]) == 1 and errors.count("Traceback") == 1, errors
