"""Overhead of the loop, and the cost model of many GPUs."""

from __future__ import annotations

import json

import pytest

from mcl.bench.overhead import OTHER, loop_shares
from mcl.bench.processes import main, measure_rank, write_request
from mcl.bench.scale import Counted, Wires, model_step
from mcl.bench.stopwatch import Event, Stopwatch
from mcl.config.base import from_values
from mcl.config.bench import BenchLoopSettings, BenchScaleSettings
from mcl.engine.observer import CHECKPOINT, DATA, LOGGING, LOOP, STEP
from mcl.errors import RunFailed, UserError
from mcl.run.bench import bench_loop, bench_scale
from ranks import on_ranks

TINY = {
    "batch": 4, "image_size": 32, "model.backbone": "test_resnet", "model.pyramid_channels": 16, "model.hidden": 32,
    "model.embedding": 16, "model.head_convs": 1, "method.scales": [1, 2], "loop.threads": 1,
}  # fmt: skip
WIRES = Wires(node=8, link=100e9, network=10e9, link_latency=1e-6, network_latency=5e-6)
COUNTED = Counted(
    online=6 * 10**12, target=10**12, logits=10**6, parameters=25 * 10**6, gathered=64 * 256,
    online_norms=(64,) * 100, target_norms=(64,) * 50,
)  # fmt: skip


def test_a_stopwatch_notes_spans_that_end_well():
    waited = []
    stopwatch = Stopwatch(lambda: waited.append(1))
    with stopwatch.span("outer"), stopwatch.span("inner"):
        pass
    with pytest.raises(StopIteration), stopwatch.span("outer"):
        raise StopIteration
    inner, outer = stopwatch.events
    assert (inner.label, outer.label) == ("inner", "outer") and len(waited) == 2
    assert outer.start <= inner.start <= inner.end <= outer.end and outer.seconds >= inner.seconds
    assert stopwatch.of("outer") == [outer] and stopwatch.of("inner", start=inner.end) == []


def test_shares_leave_out_the_first_steps_and_count_checkpoints_at_the_recipes_rate():
    stopwatch = Stopwatch()
    for step in range(4):  # each: 0.1 data, 0.8 step, 0.05 logging, 0.05 nothing
        at = float(step)
        stopwatch.events += [
            Event(DATA, at, at + 0.1),
            Event(STEP, at + 0.1, at + 0.9),
            Event(LOGGING, at + 0.9, at + 0.95),
        ]
    stopwatch.events += [Event(CHECKPOINT, 4.0, 5.0), Event(LOOP, 0.0, 5.0)]
    shares = loop_shares(stopwatch, skip=2, checkpoint_every=20)
    assert shares[STEP]["seconds"] == pytest.approx(1.6) and shares[DATA]["seconds"] == pytest.approx(0.2)
    assert shares[CHECKPOINT]["seconds"] == pytest.approx(2 / 20)
    assert shares[OTHER]["seconds"] == pytest.approx(0.15)
    assert sum(value["share"] for value in shares.values()) == pytest.approx(1)
    with pytest.raises(RunFailed, match="--steps"):
        loop_shares(stopwatch, skip=4, checkpoint_every=20)


def test_a_real_run_is_taken_apart():
    given = {**TINY, "images": 8, "steps": 4, "skip": 1, "loop.workers": 0, "loop.tensorboard": False}
    table = bench_loop(from_values(BenchLoopSettings, given))["tables"][0]
    rows = {row["what"]: row for row in table["rows"]}
    assert rows[STEP]["times"] == 3 and rows[DATA]["times"] == 3 and rows[CHECKPOINT]["times"] > 0
    assert rows[STEP]["share"] + rows["outside the step"]["share"] == pytest.approx(1)


def test_one_gpu_sends_nothing():
    step = model_step(COUNTED, WIRES, 1, flops=1e14, overlap=0.5)
    assert step["gradients"] == step["gather"] == step["sync_bn"] == 0 and step["efficiency"] == 1


def test_collectives_follow_their_formulas():
    assert WIRES.all_reduce(1e9, 8) == pytest.approx(2 * 7 / 8 * 1e9 / 100e9 + 2 * 3e-6)
    assert WIRES.all_gather(1e6, 32) == pytest.approx(31 * 1e6 / 10e9 + 3e-6 + 2 * 5e-6)
    assert WIRES.bandwidth(8) == 100e9 and WIRES.bandwidth(9) == 10e9


def test_more_gpus_never_cost_less_wire_and_overlap_hides_gradients():
    steps = [model_step(COUNTED, WIRES, 2**i, 1e14, overlap=0.0) for i in range(9)]
    for name in ("gradients", "gather", "sync_bn", "step"):
        values = [step[name] for step in steps]
        assert values == sorted(values)
    hidden = model_step(COUNTED, WIRES, 64, 1e14, overlap=1.0)
    assert hidden["exposed"] == max(0, hidden["gradients"] - 2 / 3 * 0.06) < steps[6]["exposed"]
    assert all(step["node_bn_efficiency"] >= step["efficiency"] for step in steps)


def test_the_table_counts_each_batch_and_refuses_too_many_gpus():
    given = {"recipe": "mcl-r18-64", **TINY, "batch": 8, "gpus": [1, 2], "images": 1000}
    content = bench_scale(from_values(BenchScaleSettings, given))
    rows, (one, two) = content["tables"][0]["rows"], content["counted"].values()
    assert [row["per_gpu"] for row in rows] == [8, 4] and rows[0]["efficiency"] == 1 > rows[1]["efficiency"]
    assert one["online_flop"] == 2 * two["online_flop"] and one["gradient_bytes"] == two["gradient_bytes"]
    assert one["target_bytes"] == 4 * 2 * 8 * 16 and one["norm_calls_online"] > one["norm_calls_target"] > 0
    with pytest.raises(UserError, match="--per_gpu"):
        bench_scale(from_values(BenchScaleSettings, {**given, "gpus": [8]}))


def test_steps_on_two_processes_are_timed():
    given = {**TINY, "recipe": None, "measure": [2], "measure_steps": 2, "loop.device": "cpu"}
    first, second = on_ranks(2, measure_rank, from_values(BenchScaleSettings, given))
    assert (first["processes"], first["share"]) == (2, 2) and first["step"] == second["step"]
    assert 0 < first["exchange"] < 1
    assert first["calls"] > 20  # two for nearly every norm of the online network, in every view
    assert first["images_per_second"] == pytest.approx(4 / first["step"] * 1e3)


def test_a_process_reads_what_it_shall_measure(tmp_path):
    given = {**TINY, "recipe": None, "measure": [1], "measure_steps": 1, "loop.device": "cpu"}
    request = write_request(from_values(BenchScaleSettings, given), tmp_path)
    main(request)  # alone, as the process of a launcher's would
    row = json.loads(request.with_suffix(".answer").read_text())
    assert (row["processes"], row["share"], row["exchange"], row["calls"]) == (1, 4, 0, 0) and row["step"] > 0
