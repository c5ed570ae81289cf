"""A mistake in a study is one line that says where."""

import pytest

from mcl.errors import UserError
from mcl.studies.study import read_study


def changed(values, path, value):
    *parents, leaf = path.split(".")
    target = values
    for parent in parents:
        target = target[parent]
    if value is None:
        del target[leaf]
    else:
        target[leaf] = value
    return values


@pytest.mark.parametrize(
    "path, value, words",
    [
        ("labls", 3, "unknown entry 'labls' \\(did you mean 'labels'"),
        ("starts.mcl.methd", "mcl", "unknown entry 'starts.mcl.methd' \\(did you mean 'method'"),
        ("starts.mcl.trunk", "none", "starts.mcl: needs one of method, trunk"),
        ("starts.scratch.pretrain", {"batch": 8}, "only go with method"),
        ("reference", "scrach", "no start 'scrach' \\(did you mean 'scratch'"),
        ("budget.like", "scratch", "is not pre-trained"),
        ("budget", None, "budget is missing"),
        ("budget.equal", "hours", "budget.equal: must be 'flops', 'images' or 'steps', got 'hours'"),
        ("labels", [0], "labels.0: must be greater than or equal to 1"),
        ("seeds", [], "seeds is empty"),
        ("starts.mcl.data", ["toys"], "no data 'toys' \\(did you mean 'toy'"),
        ("data", None, "data is required"),
        ("tune", {"settings": {"optim.lr": {"low": 2, "high": 1}}}, "low must be below high"),
    ],
)
def test_mistakes(values, write, path, value, words):
    with pytest.raises(UserError, match=words) as error:
        read_study(write(changed(values, path, value)))
    assert "\n" not in str(error.value) and "study.yaml: " in str(error.value)


@pytest.mark.parametrize(
    "path, value, words",
    [
        ("pretrain.optim.lrr", 1, "study.yaml: starts.mcl: unknown setting 'optim.lrr'"),
        ("finetune.batch", "many", "study.yaml: starts.mcl: --batch: must be a valid integer"),
        ("starts.mcl.method", "mlc", "study.yaml: starts.mcl: --method.name: no method 'mlc' \\(did you mean 'mcl'"),
        ("budget", {"amounts": 5, "equal": "flops"}, "less than half a step of mcl"),
    ],
)
def test_mistakes_in_settings(values, plan_of, path, value, words):
    with pytest.raises(UserError, match=words) as error:
        plan_of(changed(values, path, value)).jobs({})
    assert "\n" not in str(error.value)


def test_unreadable(tmp_path):
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    (tmp_path / "bad.yaml").write_text("a: [")
    for name, words in {"gone.yaml": "No such file", "list.yaml": "expected 'entry: value'", "bad.yaml": "not valid YAML"}.items():
        with pytest.raises(UserError, match=words):
            read_study(tmp_path / name)
