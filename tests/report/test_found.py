"""Precision, confusions and differences of AP, against COCO's own numbers and by hand."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from mcl.data.labels.coco_json import CocoScenes, Scene, SceneObject
from mcl.detect.analysis.confusion import confusion_matrix
from mcl.detect.analysis.matches import match_images
from mcl.detect.evaluate import ground_truth
from mcl.report.found import CLASSES, Found, confusions, errors_table, found_by, mean_curve, precision_charts
from mcl.report.runs import read_runs
from mcl.report.tables import order_of, percent
from mcl.report.versus import compare_runs

NAMES = {1: "cat", 2: "dog"}


def thing(x: float, category: int, crowd: bool = False) -> SceneObject:
    return SceneObject((x, 0, x + 10, 10), category, crowd, 100.0)


def box(x: float, category: int, score: float) -> dict:
    return {"image_id": 1, "category_id": category, "score": score, "bbox": [x, 0, 10, 10]}


def test_confusions_by_hand(tmp_path):
    objects = (thing(0, 1), thing(20, 1), thing(40, 1), thing(60, 2), thing(80, 2, crowd=True))
    scenes = CocoScenes(tmp_path / "val.json", NAMES, [Scene(1, tmp_path / "1.png", 100, 10, objects)])
    found = [
        box(0, 1, 0.9),  # a cat for a cat
        box(20, 2, 0.8),  # a dog where a cat is
        box(40, 1, 0.2),  # a cat, not surely enough: missed
        box(61, 2, 0.7),  # a dog for a dog
        box(30, 1, 0.6),  # nothing is there
    ]
    mixed = match_images(ground_truth(scenes, False), found, "bbox", by_class=False)
    told = confusions(Found({}, confusion_matrix(mixed, NAMES, 0.3), {}))
    assert told.names == ("cat", "dog") and told.counts == ((1, 1), (0, 1))
    assert told.missed == (1, 0) and told.invented == (1, 0) and told.left_out == 0


def test_many_classes_leave_room_for_those_with_most_objects():
    count = CLASSES + 3
    told = {"classes": [f"c{i}" for i in range(count)], "matrix": np.diag(range(count)).tolist(), "missed": [0] * count, "false": [0] * count}
    table = confusions(Found({}, {**told, "score": 0.3}, {}))
    assert table.left_out == 3 and table.names[0] == "c3" and len(table.counts) == len(table.names) == CLASSES


def test_the_area_below_the_curves_is_cocos_ap(runs):
    (run,) = read_runs([runs["good"]])
    found, missing = found_by(run)
    assert missing == "" and 100 * mean_curve(found).mean() == pytest.approx(100 * run.numbers["bbox"]["AP"], abs=1e-2)
    first = precision_charts(found)[0]
    assert [name for name, *_ in first.legend] == ["IoU 0.5", "IoU 0.75", "mean of IoU 0.5 to 0.95"]


def test_what_the_evaluation_wrote_is_taken_and_needs_no_annotations(runs, annotated, tmp_path):
    (run,) = read_runs([runs["good"]])
    made, _ = found_by(run)
    moved = tmp_path / "moved"
    shutil.copytree(runs["good"], moved)
    for name in ("curves", "confusion", "errors"):
        (moved / f"{name}.json").write_text(json.dumps(getattr(made, name)))
    (moved / "config.yaml").write_text((moved / "config.yaml").read_text().replace(str(annotated), str(tmp_path / "gone")))
    (run,) = read_runs([moved])
    found, missing = found_by(run)
    assert missing == "" and found.confusion == made.confusion and found.curves["bbox"] == made.curves["bbox"]
    assert [row[0].text for row in errors_table(found).rows][0] == "classification"
    (moved / "errors.json").unlink()
    found, missing = found_by(run)
    assert found is None and "gone" in missing


def test_differences_are_those_of_the_aps_and_tell_better_from_worse(runs):
    read = read_runs([runs["good"], runs["pretrain"], runs["poor"], runs["evaluated"]])
    (compared,) = compare_runs(read, 200)
    assert [run.name for run in compared.runs] == ["good <b>", "poor", "evaluated"] and compared.missing == ""
    for name, place in (("poor", 2), ("evaluated", 3)):
        for kind in ("bbox", "segm"):
            told = compared.differences[name, kind]
            assert told.value == pytest.approx(read[place].numbers[kind]["AP"] - read[0].numbers[kind]["AP"], abs=1e-4)
            assert told.low < told.value < told.high
    assert compared.differences["poor", "bbox"].high < 0, "boxes six times as far off"
    assert ("good <b>", "bbox") not in compared.differences


def test_without_annotations_there_are_numbers_and_the_reason(runs, annotated, tmp_path):
    shutil.copytree(runs["good"], tmp_path / "moved")
    config = (tmp_path / "moved/config.yaml").read_text().replace(str(annotated), str(tmp_path / "gone"))
    (tmp_path / "moved/config.yaml").write_text(config)
    (compared,) = compare_runs(read_runs([tmp_path / "moved"]), 100)
    assert "gone" in compared.missing and compared.aps == {} and compared.runs[0].numbers["bbox"]["AP"] > 0


def test_runs_on_other_scenes_are_not_compared(runs, annotated, tmp_path):
    shutil.copytree(runs["poor"], tmp_path / "other")
    other = annotated / "other.json"
    other.write_text(json.dumps(json.loads((annotated / "val.json").read_text())))
    config = (tmp_path / "other/config.yaml").read_text().replace("val.json", "other.json")
    (tmp_path / "other/config.yaml").write_text(config)
    assert len(compare_runs(read_runs([runs["good"], tmp_path / "other"]), 0)) == 2


@pytest.mark.parametrize(
    ("text", "number"),
    [("1m35s", 95), ("1h02m", 3720), ("2.1 days", 181440), ("20.6 TFLOP", 2.06e13), ("999 MB", 9.99e8), ("12.3 (11.8 .. 12.9)", 12.3),
     ("+1.2", 1.2), ("−0.4", -0.4), ("-0.4", -0.4), ("12,300", 12300), ("62%", 62), ("36 steps", 36), ("1 x 3", 1), ("-", None), ("mcl", None)],
)  # fmt: skip
def test_what_text_is_sorted_by(text, number):
    assert order_of(text) == (number if number is None else pytest.approx(number))


def test_percent_has_a_minus_of_print():
    assert percent(-0.123, sign=True) == "−12.3" and percent(0.5, sign=True) == "+50.0" and percent(None) == "–"
