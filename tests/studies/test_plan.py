"""Which trainings a study has, what they share, and what makes one another."""

import copy
import json

import pytest

from mcl.errors import UserError
from mcl.methods.flops import step_flops
from mcl.studies.draws import Range, draw
from mcl.studies.jobs import write_scenes


def ids(plan, kind):
    return {job.title: job.id for job in plan.jobs({}) if job.kind == kind}


def test_cells_are_the_product_and_share_their_pretraining(values, plan_of):
    values |= {"labels": [4, 8], "pretrain_seeds": [0, 1]}
    values["starts"]["mcl"]["parts"] = ["backbone", "backbone+pyramid+head"]
    values["starts"]["frozen"] = {"trunk": "none", "freeze": "trunk", "labels": 8}
    plan = plan_of(values)
    jobs = plan.jobs({})
    # scratch: 2 labels x 2 seeds; mcl: 2 parts x 2 labels x 2 x 2 seeds; frozen: 2 seeds.
    assert len(plan.cells) == 4 + 16 + 2 == sum(job.kind == "cell" for job in jobs)
    assert sum(job.kind == "pretrain" for job in jobs) == 2
    assert len({job.id for job in jobs}) == len(jobs)
    places = {job.id: place for place, job in enumerate(jobs)}
    assert all(places[need] < places[job.id] for job in jobs for need in job.needs)


@pytest.mark.parametrize(
    "change, kinds",
    [
        ({"pretrain": {"optim": {"lr": 0.02}}}, {"pretrain", "cell"}),
        ({"finetune": {"optim": {"lr": 0.02}}}, {"cell"}),
        ({"finetune": {"loop": {"log_every": 7}}, "pretrain": {"loop": {"workers": 1}}}, set()),
        ({"about": "something"}, set()),
        ({"labels": 9}, {"cell"}),
        ({"label_draw": "first"}, {"cell"}),
        ({"eval_every": 1}, {"cell"}),
    ],
)
def test_an_id_follows_what_a_result_depends_on(values, plan_of, change, kinds):
    def merge(below, above):
        return {**below, **{k: merge(below[k], v) if isinstance(v, dict) and k in below else v for k, v in above.items()}}

    before, after = plan_of(values), plan_of(merge(copy.deepcopy(values), change))
    for kind in ("pretrain", "cell"):
        old, new = ({name for title, name in ids(plan, kind).items() if "mcl" in title} for plan in (before, after))
        assert old.isdisjoint(new) if kind in kinds else old == new
    if "pretrain" in kinds:
        scratch = [{name for title, name in ids(plan, "cell").items() if "scratch" in title} for plan in (before, after)]
        assert scratch[0] == scratch[1]


def test_an_id_follows_the_data(values, plan_of, toy_data, tmp_path):
    before = ids(plan_of(values), "cell")
    copied = tmp_path / "copy"
    copied.mkdir()
    for file in toy_data.iterdir():
        (copied / file.name).symlink_to(file)
    values["data"]["toy"]["folder"] = str(copied)
    assert set(ids(plan_of(values), "cell").values()) == set(before.values())  # it may lie anywhere
    (copied / "test.json").unlink()
    content = json.loads((toy_data / "test.json").read_text())
    content["annotations"].pop()
    (copied / "test.json").write_text(json.dumps(content))
    other = tmp_path / "other"
    copied.rename(other)
    values["data"]["toy"]["folder"] = str(other)
    assert set(ids(plan_of(values), "cell").values()).isdisjoint(before.values())


def test_budgets_are_equal_in_counted_flops(values, plan_of):
    values["budget"] = {"equal": "flops", "like": "mcl", "amounts": [50, 200]}
    values["starts"] |= {"mocov2": {"method": "mocov2"}, "mcl-1": {"method": "mcl", "pretrain": {"method.scales": [1]}}}
    jobs = [job for job in plan_of(values).jobs({}) if job.kind == "pretrain"]
    assert len(jobs) == 6
    for amount, steps in enumerate((50, 200)):
        counted = {}
        for job in jobs[amount::2]:
            one = sum(step_flops(job.settings).values())
            assert job.facts["length"]["flops"] == one * job.settings.schedule.steps
            counted[job.facts["start"]] = (job.settings.schedule.steps, one)
        assert counted["mcl"][0] == steps
        budget = steps * counted["mcl"][1]
        assert all(abs(n * one - budget) <= one / 2 for n, one in counted.values())
    assert len({job.settings.schedule.steps for job in jobs[::2]}) > 1


def test_equal_steps_and_images(values, plan_of):
    values["starts"]["large"] = {"method": "mocov2", "pretrain": {"batch": 8}}
    for equal, expected in (("steps", {"mcl": 40, "large": 40}), ("images", {"mcl": 10, "large": 5})):
        values["budget"] = {"equal": equal, "amounts": 40}
        jobs = [job for job in plan_of(values).jobs({}) if job.kind == "pretrain"]
        assert {job.facts["start"]: job.settings.schedule.steps for job in jobs} == expected


def test_fine_tuning_settings_are_equal_but_for_the_start(values, plan_of):
    values["starts"]["frozen"] = {"trunk": "none", "freeze": "trunk"}
    cells = [job.settings.model_dump(mode="json") for job in plan_of(values).jobs({}) if job.kind == "cell"]
    differ = {key for key in cells[0] if len({json.dumps(cell[key]) for cell in cells}) > 1}
    assert differ == {"trunk", "parts", "train", "seed", "freeze", "out"}


def test_labelled_scenes_are_nested_and_those_of_a_seed(toy_data, tmp_path):
    def drawn(count, seed):
        target = tmp_path / f"{count}-{seed}.json"
        write_scenes(toy_data / "train.json", target, count, seed)
        content = json.loads(target.read_text())
        names = [image["id"] for image in content["images"]]
        assert {one["image_id"] for one in content["annotations"]} <= set(names) and len(names) == count
        return names

    assert drawn(8, 3)[:4] == drawn(4, 3) != drawn(4, 5)
    assert drawn(4, None) == [10, 11, 12, 13]
    with pytest.raises(UserError, match="has 12 scenes, labels asks for 13"):
        drawn(13, None)


def test_tuning_gives_every_start_the_same_trials_on_validation_scenes(values, plan_of, toy_data):
    values["tune"] = {"settings": {"optim.lr": {"low": 1e-4, "high": 1e-2, "log": True}}, "trials": 3}
    plan = plan_of(values)
    trials = [job for job in plan.jobs({}) if job.kind == "trial"]
    assert not [job for job in plan.jobs({}) if job.kind == "cell"]
    assert {job.settings.val for job in trials} == {toy_data / "val.json"}
    by_start = {}
    for job in trials:
        by_start.setdefault(job.facts["start"], []).append(job.settings.optim.lr)
    assert by_start["scratch"] == by_start["mcl"] and len(set(by_start["mcl"])) == 3 and by_start["mcl"][0] == 1e-3
    lines = {job.id: {"result": {"box_AP": 0.2 if job.facts["number"] == 2 else 0.1}} for job in trials}
    lines[next(job.id for job in trials if job.facts["start"] == "mcl" and job.facts["number"] == 1)] = {"failed": "nan"}
    cells = [job for job in plan.jobs(lines) if job.kind == "cell"]
    assert len(cells) == 4 and {job.settings.optim.lr for job in cells} == {by_start["mcl"][2]}
    assert {job.settings.val for job in cells} == {toy_data / "test.json"}


def test_halving_keeps_the_best_and_judges_on_validation_scenes(values, plan_of, toy_data):
    values["search"] = {"settings": {"optim.lr": {"low": 1e-4, "high": 1, "log": True}}, "draws": 6, "rungs": [0.34, 1.0]}
    plan = plan_of(values)
    lines, seen = {}, []
    for _ in range(20):
        new = [job for job in plan.jobs(lines) if job.id not in lines]
        if not new:
            break
        for job in new:
            seen.append(job)
            lines[job.id] = {"result": {"box_AP": job.facts.get("number", 0) / 10}}
    judged = [(job.facts["rung"], job.facts["number"]) for job in seen if job.kind == "trial" and job.facts["start"] == "mcl"]
    assert judged == [(0, number) for number in range(6)] + [(1, 5), (1, 4)]
    assert {job.settings.val for job in seen if job.kind == "trial"} == {toy_data / "val.json"}
    assert [job.settings.schedule.steps for job in seen if job.kind == "pretrain"] == [1] * 6 + [3] * 2


def test_draws_are_the_same_for_all_and_independent_of_other_settings():
    lr = {"optim.lr": Range(low=1e-4, high=1e-1, log=True)}
    both = {"optim.name": ["sgd", "lars"], **lr}
    drawn = [draw(lr, number, 0)["optim.lr"] for number in range(1, 400)]
    assert draw(both, 0, 0) == {} and draw(both, 7, 0)["optim.lr"] == drawn[6]
    assert all(1e-4 <= value <= 1e-1 for value in drawn)
    assert 0.4 < sum(value < 10**-2.5 for value in drawn) / len(drawn) < 0.6
