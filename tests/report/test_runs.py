"""What a folder is, and what its run had otherwise than its recipe."""

from __future__ import annotations

import shutil

import pytest

from mcl.errors import UserError
from mcl.report.costs import state_of
from mcl.report.differs import changed_settings, inputs
from mcl.report.runs import read_runs


def test_every_kind_is_told_by_what_lies_in_its_folder(runs):
    read = read_runs(list(runs.values()))
    kinds = ["pre-training", "pre-training", "fine-tuning", "fine-tuning", "evaluation", "study"]
    assert [run.kind for run in read] == kinds
    assert [run.finished for run in read] == [True, False, True, True, True, True]
    assert state_of(read[1]) == "not finished: step 100 of 400"


def test_a_folder_given_twice_is_one_run(runs):
    assert len(read_runs([runs["poor"], runs["poor"] / ".." / "poor"])) == 1


def test_names_are_as_short_as_they_can_be(runs, tmp_path):
    for place in ("a", "b"):
        shutil.copytree(runs["poor"], tmp_path / place / "run")
    assert [run.name for run in read_runs([tmp_path / "a/run", tmp_path / "b/run"])] == ["a/run", "b/run"]
    assert [run.name for run in read_runs([tmp_path / "a/run"])] == ["run"]


def test_settings_that_differ_from_the_recipe(runs):
    read = read_runs([runs["pretrain"], runs["good"], runs["evaluated"]])
    assert changed_settings(read[0]) == [
        ("seed", "0", "7"), ("image_size", "128", "64"), ("schedule.epochs", "10", "none"), ("schedule.steps", "none", "400"),
    ]  # fmt: skip
    assert ("optim.lr", "0.001", "0.003") in changed_settings(read[1])
    assert not any(name in ("train", "out", "recipe") for name, _, _ in changed_settings(read[1]))
    assert inputs(read[0])["data"] == "photos" and changed_settings(read[2]) == []


def test_the_ap_at_the_end_is_the_curves_last_point(runs):
    (run,) = read_runs([runs["good"]])
    assert [point["step"] for point in run.curve] == [30, 60, 90] and run.curve[-1]["box_AP"] == run.summary["box_AP"]


def test_a_line_cut_off_by_a_kill_is_passed_over(runs, tmp_path):
    shutil.copytree(runs["begun"], tmp_path / "cut")
    with open(tmp_path / "cut" / "metrics.jsonl", "a") as file:
        file.write('{"step": 110, "lo')
    (run,) = read_runs([tmp_path / "cut"])
    assert run.steps_done == 100


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: None, "no such folder"),
        (lambda path: path.write_text("x"), "is a file"),
        (lambda path: path.mkdir(), "not a folder of mcl pretrain, finetune, evaluate or compare"),
        (lambda path: (path.mkdir(), (path / "config.yaml").write_text("lr: 1")), "not a folder of mcl"),
        (lambda path: (path.mkdir(), (path / "config.yaml").write_text("a: [")), "config.yaml: cannot be read"),
        (lambda path: ((path / "one").mkdir(parents=True), (path / "one/config.yaml").write_text("data: x")), "for example"),
    ],
)
def test_a_folder_that_is_no_run_is_one_line(tmp_path, prepare, message):
    prepare(tmp_path / "given")
    with pytest.raises(UserError, match="^[^\n]*$") as caught:
        read_runs([tmp_path / "given"])
    assert message in str(caught.value) and "given" in str(caught.value)


def test_a_damaged_summary_is_one_line_with_its_file(runs, tmp_path):
    shutil.copytree(runs["good"], tmp_path / "bad")
    (tmp_path / "bad" / "summary.json").write_text('{"cost": ')
    (run,) = read_runs([tmp_path / "bad"])
    with pytest.raises(UserError, match="summary.json: cannot be read"):
        state_of(run)
