"""Every watchdog on made-up numbers: says it once when it should, and is silent on noise."""

from __future__ import annotations

import numpy as np
import pytest

from mcl.config.watch import PretrainWatchSettings, WatchSettings
from mcl.engine.watch import ADVICE, Alarm, Watch

LINE = 10  # steps a line


def feed(watch: Watch, lines: list[dict], start: int = 0) -> list[Alarm]:
    """Lines of ``LINE`` steps: per-step lists under loss and gradient_norm, other numbers as they are."""
    alarms = []
    for number, line in enumerate(lines):
        each = {key: value for key, value in line.items() if isinstance(value, list)}
        averages = {key: float(np.mean(value)) for key, value in line.items()}
        alarms += watch.see(start + (number + 1) * LINE, averages, {"loss": [1.0] * LINE, **each})
    return alarms


def noisy(seed: int, lines: int, level: float = 1.0, noise: float = 0.1, trend: float = 0.0) -> list[list[float]]:
    r = np.random.default_rng(seed)
    steps = level + trend * np.arange(lines * LINE) + noise * r.standard_normal(lines * LINE)
    return steps.reshape(lines, LINE).tolist()


def kinds(alarms: list[Alarm]) -> list[str]:
    return [alarm.kind for alarm in alarms]


@pytest.mark.parametrize("seed", range(5))
def test_noise_a_falling_loss_and_heavy_tailed_gradients_are_no_alarm(seed):
    r = np.random.default_rng(seed)
    falling = noisy(seed, 200, level=5.0, noise=0.15, trend=-0.002)
    norms = r.lognormal(0, 0.5, (200, LINE)).tolist()
    healthy = [
        {"loss": loss, "gradient_norm": norm, "spread": 0.9 + 0.05 * r.standard_normal(), "rank": 4 + r.standard_normal() / 3, "chance": 0.01,
         "accuracy/p5": 0.6, "accuracy/p2": 0.06 + 0.01 * r.standard_normal(),
         "data_wait": float(r.uniform(0, 0.15)), "gpu_memory": 0.9}
        for loss, norm in zip(falling, norms, strict=True)
    ]  # fmt: skip
    assert feed(Watch(PretrainWatchSettings(), 1, 2), healthy) == []


def test_a_loss_spike_names_its_step_and_is_judged_by_the_median():
    lines = [{"loss": loss} for loss in noisy(0, 20, level=2.0, noise=0.05)]
    lines[4]["loss"][7] = 9.0
    lines[12]["loss"][2] = 9.0  # the first is among the steps it is compared with, and must not hide it
    first, second = feed(Watch(WatchSettings(window=60)), lines)
    assert first.kind == second.kind == "loss_spike"
    assert "jumped to 9 at step 48 (median of the 40 steps before: 1.99)" in first.text
    assert "at step 123" in second.text and "--optim.lr" in first.text


def test_a_spike_in_the_first_steps_is_not_judged():
    lines = [{"loss": loss} for loss in noisy(0, 3, level=2.0)]
    lines[1]["loss"][0] = 50.0
    assert feed(Watch(WatchSettings()), lines) == []


def test_a_smooth_loss_does_not_make_a_tremor_a_spike():
    lines = [{"loss": [1.0] * LINE} for _ in range(10)] + [{"loss": [1.1] * LINE}]
    assert feed(Watch(WatchSettings()), lines) == []
    assert kinds(feed(Watch(WatchSettings()), [*lines[:10], {"loss": [1.2] * LINE}])) == ["loss_spike"]


def test_a_gradient_spike_suggests_a_clip_norm():
    lines = [{"gradient_norm": norm} for norm in noisy(1, 8, level=2.0, noise=0.2)]
    lines[6]["gradient_norm"][3] = 80.0
    (alarm,) = feed(Watch(WatchSettings()), lines)
    assert alarm.kind == "gradient_spike" and "jumped to 80 at step 64, 40 times its median" in alarm.text
    assert "--optim.clip_norm of about 6" in alarm.text


def test_gradients_that_grow_slowly_are_seen_though_no_step_jumps():
    grown = [{"gradient_norm": [1.02 ** (line * LINE + i) for i in range(LINE)]} for line in range(60)]
    alarms = feed(Watch(WatchSettings(window=50)), grown)
    assert set(kinds(alarms)) == {"gradient_growth"} and "about to diverge" in alarms[0].text
    assert alarms[0].step < 400


def test_collapse_is_said_when_it_begins_and_again_after_a_recovery():
    spreads = [0.8] * 5 + [0.05] * 40 + [0.8] * 40 + [0.05] * 3
    alarms = feed(Watch(PretrainWatchSettings()), [{"spread": spread} for spread in spreads])
    assert [(alarm.kind, alarm.step) for alarm in alarms] == [("collapse_spread", 60), ("collapse_spread", 860)]
    assert "collapsed (spread 0.050" in alarms[0].text and alarms[0].text.endswith("try a lower --optim.lr or more --schedule.warmup_steps")


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        ("collapse_spread", [{"spread": 0.05}]), ("collapse_rank", [{"rank": 1.5}]), ("gpu_memory", [{"gpu_memory": 0.99}]),
        ("loss_spike", [{"loss": [1.0] * LINE}] * 10 + [{"loss": [9.0] * LINE}]),
        ("gradient_growth", [{"gradient_norm": [1.02 ** (n * LINE)] * LINE} for n in range(60)]),
        ("dead_level", [{"accuracy/p2": 0.01, "accuracy/p5": 0.7, "chance": 0.01}] * 20),
    ],
)  # fmt: skip
def test_who_trains_may_know_better_what_to_try(kind, lines):
    settings = PretrainWatchSettings(window=50)
    (given,) = {a.text for a in feed(Watch(settings, advice={kind: "shake it"}), lines) if a.kind == kind and a.step < 600}
    (general,) = {a.text for a in feed(Watch(settings), lines) if a.kind == kind and a.step < 600}
    assert given.endswith(("; shake it", ": shake it"))
    assert ADVICE[kind] in general and "--method" not in general and given[:20] == general[:20]


def test_flickering_around_a_threshold_is_one_warning():
    flicker = [{"spread": 0.05 if i % 2 else 0.2} for i in range(50)]
    assert len(feed(Watch(PretrainWatchSettings()), flicker)) == 1


def levels(p2: float, p5: float, lines: int = 30, seed: int = 0) -> list[dict]:
    r = np.random.default_rng(seed)
    wobble = lambda: 0.002 * r.standard_normal()  # noqa: E731
    return [
        {"accuracy/p2": p2 + wobble(), "accuracy/p3": 0.4, "accuracy/p5": p5 + wobble(), "chance": 1 / 96}
        for _ in range(lines)
    ]


def test_a_dead_level_is_one_at_chance_while_others_learn():
    (alarm,) = feed(Watch(PretrainWatchSettings()), levels(1 / 96, 0.7))
    assert alarm.kind == "dead_level" and "level p2 learns nothing" in alarm.text
    assert "chance 1.0%, p5 reaches 70" in alarm.text and "its share of the loss" in alarm.text
    assert feed(Watch(PretrainWatchSettings()), levels(0.1, 0.7)) == [], "slow is not dead"
    nothing_learnt = [{**line, "accuracy/p3": 0.011} for line in levels(1 / 96, 0.02)]
    assert feed(Watch(PretrainWatchSettings()), nothing_learnt) == [], "at the start no level has learnt"


def test_two_dead_levels_are_both_named():
    lines = [{**line, "accuracy/p3": 0.011} for line in levels(1 / 96, 0.7)]
    (alarm,) = feed(Watch(PretrainWatchSettings()), lines)
    assert "level p2 and p3 learns nothing" in alarm.text


def test_data_wait_leaves_out_the_first_line_and_says_how_many_workers():
    (alarm,) = feed(Watch(WatchSettings(), workers=1, cores=8), [{"data_wait": w} for w in [0.9, *[0.4] * 20]])
    assert alarm.kind == "data_wait" and "40% of the time" in alarm.text and "--loop.workers 2 (now 1)" in alarm.text
    only_start = [{"data_wait": w} for w in [0.99, *[0.05] * 20]]
    assert feed(Watch(WatchSettings(), 1, 8), only_start) == []
    single_hiccups = [{"data_wait": 0.9 if i % 4 == 0 else 0.02} for i in range(40)]
    assert feed(Watch(WatchSettings(), 1, 8), single_hiccups) == []


def test_more_workers_than_cores_are_not_advised():
    (alarm,) = feed(Watch(WatchSettings(), workers=2, cores=2), [{"data_wait": 0.5}] * 10)
    assert "2 cores" in alarm.text and "store the images smaller" in alarm.text


def test_long_lines_are_judged_too():
    """A line may be longer than the window (``log_every`` 500)."""
    watch = Watch(WatchSettings(window=50), 1, 4)
    alarms = []
    for number in range(6):
        alarms += watch.see((number + 1) * 500, {"data_wait": 0.5}, {"loss": [1.0] * 500})
    assert kinds(alarms) == ["data_wait"]


def test_gpu_memory():
    (alarm,) = feed(Watch(WatchSettings()), [{"gpu_memory": 0.5}, {"gpu_memory": 0.97}, {"gpu_memory": 0.97}])
    assert alarm.kind == "gpu_memory" and "97% of the GPU's memory" in alarm.text and "--loop.precision" in alarm.text


BAD = {
    "collapse_spread": [{"spread": 0.01}] * 5,
    "collapse_rank": [{"rank": 1.2}] * 5,
    "loss_spike": [*[{"loss": [1.0] * LINE}] * 5, {"loss": [9.0] * LINE}],
    "gradient_spike": [*[{"gradient_norm": [1.0] * LINE}] * 5, {"gradient_norm": [99.0] * LINE}],
    "gradient_growth": [{"gradient_norm": [3.0**i] * LINE} for i in range(40)],
    "dead_level": levels(1 / 96, 0.7),
    "data_wait": [{"data_wait": 0.6}] * 10,
    "gpu_memory": [{"gpu_memory": 0.99}],
}


@pytest.mark.parametrize("kind", BAD)
def test_each_threshold_is_a_setting_and_none_switches_it_off(kind):
    limits = {"window": 20, "gradient_spike": 1000.0}
    own = {**limits, "gradient_spike": 10.0} if kind == "gradient_spike" else limits
    assert kind in kinds(feed(Watch(PretrainWatchSettings(**own)), BAD[kind]))
    assert kind not in kinds(feed(Watch(PretrainWatchSettings(**{**own, kind: None})), BAD[kind]))
    measured = {"knn_every", "knn_data", "knn_images"}  # no thresholds: what else is measured
    assert set(PretrainWatchSettings.model_fields) == {"window", *BAD, *measured}
