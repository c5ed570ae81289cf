"""Errors by kind, confusion matrix, curves and worst images, on cases made by hand."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcl.detect.analysis.confusion import confusion_matrix
from mcl.detect.analysis.curves import precision_recall
from mcl.detect.analysis.error_kinds import KINDS, error_kinds, kinds_of_image
from mcl.detect.analysis.matches import IGNORED, match_images
from mcl.detect.analysis.worst import worst_images
from mcl.detect.evaluate import coco_evaluators, coco_numbers
from mcl.engine.run_folder import RunFolder
from mcl.run.analysis import write_analysis

CAT, DOG, HEN = 3, 5, 9
NAMES = {CAT: "cat", DOG: "dog", HEN: "hen"}


def truth_of(*objects, crowds=()) -> dict:
    """A COCO dictionary of one image; objects are (class, box)."""
    annotations = [
        {"id": i, "image_id": 7, "category_id": c, "bbox": list(box), "area": box[2] * box[3], "iscrowd": int(i > len(objects))}
        for i, (c, box) in enumerate([*objects, *crowds], start=1)
    ]
    categories = [{"id": c, "name": name} for c, name in NAMES.items()]
    return {"images": [{"id": 7, "width": 200, "height": 200}], "categories": categories, "annotations": annotations}


def found(*detections) -> list[dict]:
    """Detections are (class, box, score)."""
    return [{"image_id": 7, "category_id": c, "bbox": list(box), "score": score} for c, box, score in detections]


def kinds(truth, results) -> list[str]:
    (image,) = match_images(truth, results, "bbox")
    return kinds_of_image(image)[0]


# A box and others that overlap it by IoU 1, 0.6, 0.3 and 0.05.
BOX, NEAR, HALF, FAR, AWAY = (50, 50, 40, 40), (50, 50, 40, 24), (50, 50, 40, 12), (50, 50, 40, 2), (150, 150, 20, 20)


@pytest.mark.parametrize(
    "detections, expected",
    [
        ([(CAT, NEAR, 0.9)], [""]),
        ([(DOG, NEAR, 0.9)], ["classification"]),
        ([(CAT, HALF, 0.9)], ["localisation"]),
        ([(DOG, HALF, 0.9)], ["both"]),
        ([(CAT, BOX, 0.9), (CAT, NEAR, 0.8)], ["", "duplicate"]),
        ([(CAT, FAR, 0.9), (DOG, FAR, 0.8), (DOG, AWAY, 0.7)], ["background"] * 3),
    ],
)
def test_each_kind_by_its_definition(detections, expected):
    truth = truth_of((CAT, BOX))
    assert kinds(truth, found(*detections)) == expected


def told(truth, results):
    return error_kinds(match_images(truth, results, "bbox"), list(NAMES), 0.3)


def counts(truth, results) -> dict[str, int]:
    errors = told(truth, results)
    return {kind: errors[kind]["count"] for kind in KINDS if errors[kind]["count"]}


def test_an_object_is_missed_if_no_mended_detection_would_find_it():
    truth = truth_of((CAT, BOX))
    assert counts(truth, found()) == {"missed": 1}
    assert counts(truth, found((DOG, HALF, 0.9))) == {"both": 1, "missed": 1}
    assert counts(truth, found((DOG, NEAR, 0.9))) == {"classification": 1}
    assert counts(truth, found((CAT, HALF, 0.9))) == {"localisation": 1}


def gains(truth, results) -> dict[str, float]:
    errors = told(truth, results)
    return {kind: errors[kind]["dAP50"] for kind in KINDS if errors[kind]["dAP50"]}


def test_what_a_kind_costs():
    one = truth_of((CAT, BOX))
    assert told(one, found((CAT, BOX, 0.9)))["AP50"] == 1
    # Nothing is right: mending the error gives AP 1.
    assert gains(one, found((DOG, NEAR, 0.9))) == {"classification": 1}
    assert gains(one, found((CAT, HALF, 0.9))) == {"localisation": 1}
    # A better false detection halves the precision: 0.5 to win by taking it away.
    assert gains(one, found((CAT, AWAY, 0.9), (CAT, BOX, 0.8))) == {"background": 0.5}
    # "both" costs its class only where it has objects.
    two = truth_of((CAT, BOX), (DOG, AWAY))
    assert gains(two, found((DOG, HALF, 0.9), (DOG, AWAY, 0.8), (CAT, BOX, 0.7))) == {"both": 0.25}
    # Found second best: the duplicate ahead of another class's object costs nothing, behind a better one it does.
    pair = truth_of((CAT, BOX), (CAT, AWAY))
    assert gains(pair, found((CAT, BOX, 0.9), (CAT, NEAR, 0.8), (CAT, AWAY, 0.7))) == {"duplicate": pytest.approx(50 / 101 / 3, abs=1e-3)}
    # One of two objects missed: 51 of the 101 recalls are reached.
    assert gains(pair, found((CAT, BOX, 0.9))) == {"missed": pytest.approx(50 / 101, abs=1e-4)}


def test_of_two_detections_of_a_wrong_class_the_better_one_is_mended():
    truth = truth_of((CAT, BOX))
    assert gains(truth, found((DOG, NEAR, 0.9), (HEN, NEAR, 0.8))) == {"classification": 1}
    # The target is found already: the errors only go away, and cost nothing where they stand.
    assert gains(truth, found((CAT, BOX, 0.95), (DOG, NEAR, 0.9))) == {}


def test_crowds_are_neither_right_nor_wrong():
    truth = truth_of((CAT, BOX), crowds=[(CAT, (100, 100, 80, 80))])
    results = found((CAT, BOX, 0.9), (CAT, (110, 110, 10, 10), 0.8), (DOG, (110, 110, 10, 10), 0.7))
    (image,) = match_images(truth, results, "bbox")
    assert image.taken.tolist() == [0, IGNORED, -1] and len(image.truth) == 1
    assert counts(truth, results) == {"background": 1} and told(truth, results)["AP50"] == 1
    matrix = confusion_matrix(match_images(truth, results, "bbox", by_class=False), NAMES, 0.3)
    assert matrix["matrix"][0] == [1, 0, 0] and matrix["false"] == [0, 0, 0]


def test_sure_errors_are_those_of_sure_detections():
    errors = told(truth_of((CAT, BOX)), found((CAT, BOX, 0.2), (CAT, AWAY, 0.9), (DOG, AWAY, 0.1)))
    assert errors["background"] == {"count": 2, "count_sure": 1, "dAP50": 0.5}
    assert errors["missed"]["count"] == 0 and errors["missed"]["count_sure"] == 1


def test_without_objects_there_is_nothing_to_measure():
    assert told(truth_of(), [])["AP50"] is None


boxes = st.tuples(st.integers(0, 150), st.integers(0, 150), st.integers(5, 50), st.integers(5, 50))
objects = st.lists(st.tuples(st.sampled_from(list(NAMES)), boxes), min_size=1, max_size=8)
detections = st.lists(st.tuples(st.sampled_from(list(NAMES)), boxes, st.integers(1, 1000)), max_size=20, unique_by=lambda d: d[2])


@settings(max_examples=60, deadline=None)
@given(objects, detections, st.data())
def test_ap_is_cocos_and_every_detection_has_one_kind(things, guesses, data):
    """Guesses lie near the objects, so that all kinds come up."""
    near = [
        (c, (max(0, b[0] + dx), b[1], b[2], b[3]), score)
        for (c, b), (_, (dx, *_), score) in zip(data.draw(st.permutations(things * 3)), guesses, strict=False)
    ]
    truth, results = truth_of(*things), [{**r, "score": r["score"] / 1000} for r in found(*guesses, *near)]
    errors = told(truth, results)
    assert errors["AP50"] == pytest.approx(_coco_ap50(truth, results), abs=1e-5)
    images = match_images(truth, results, "bbox")
    true = sum((image.taken >= 0).sum() for image in images)
    assert sum(errors[kind]["count"] for kind in KINDS[:-1]) + true == len(results)


def _coco_ap50(truth, results) -> float:
    from mcl.detect.evaluate import COCO, COCOeval_faster

    reference = COCO(truth)
    evaluator = COCOeval_faster(reference, reference.loadRes([dict(r) for r in results]), "bbox")
    evaluator.print_function = lambda *_: None
    evaluator.run()
    return evaluator.stats_as_dict["AP_50"]


def test_confusion_matrix_counts_pairs():
    truth = truth_of((CAT, BOX), (CAT, AWAY), (DOG, (0, 0, 20, 20)))
    results = found((DOG, NEAR, 0.9), (CAT, AWAY, 0.8), (HEN, (100, 0, 20, 20), 0.5), (DOG, (0, 0, 20, 20), 0.1))
    matrix = confusion_matrix(match_images(truth, results, "bbox", by_class=False), NAMES, 0.3)
    assert matrix["classes"] == ["cat", "dog", "hen"]
    assert matrix["matrix"] == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert matrix["missed"] == [0, 1, 0] and matrix["false"] == [0, 0, 1]


def test_worst_images_are_those_with_most_mistakes():
    truth = truth_of((CAT, BOX), (CAT, AWAY))
    truth["images"].append({"id": 8, "width": 200, "height": 200})
    truth["annotations"].append({"id": 3, "image_id": 8, "category_id": CAT, "bbox": list(BOX), "area": 1600, "iscrowd": 0})
    results = found((CAT, BOX, 0.9), (DOG, NEAR, 0.5), (HEN, AWAY, 0.4), (HEN, BOX, 0.2))
    worst = worst_images(match_images(truth, results, "bbox"), 0.3, 5)
    assert [(wrong.image, wrong.missed, [r["category_id"] for r in wrong.false]) for wrong in worst] == [
        (7, [2], [DOG, HEN]), (8, [3], []),
    ]  # fmt: skip
    assert worst_images(match_images(truth, results, "bbox"), 0.3, 1) == worst[:1]


def perfect(scenes, score=0.9) -> list[dict]:
    return [
        {"image_id": s.id, "category_id": t.category, "score": score, "bbox": [t.box[0], t.box[1], t.box[2] - t.box[0], t.box[3] - t.box[1]]}
        for s in scenes.scenes
        for t in s.objects
    ]


def test_curves_add_up_to_ap(scenes):
    half = perfect(scenes)[::2]
    results = {"bbox": [*half, *({**box, "score": 0.5, "category_id": 5} for box in perfect(scenes)[:4])]}
    evaluators = coco_evaluators(scenes, results)
    curves, numbers = precision_recall(evaluators["bbox"], scenes.categories), coco_numbers(scenes, results, evaluators)["bbox"]
    assert len(curves["recall"]) == 101 and list(curves["precision"]) == list(numbers["by_iou"])
    for overlap, curve in curves["precision"].items():
        assert np.mean(curve) == pytest.approx(numbers["by_iou"][overlap], abs=1e-3)
    assert np.mean(list(numbers["by_iou"].values())) == pytest.approx(numbers["AP"], abs=1e-4)
    assert numbers["by_iou"]["0.50"] == numbers["AP50"] and numbers["by_iou"]["0.75"] == numbers["AP75"]
    one = curves["classes"]["square"]
    assert one["score"][0] == 0.9 and one["precision"][0] == 1 and np.mean(one["precision"]) == pytest.approx(one["AP50"], abs=1e-3)


def test_what_is_written(scenes, tmp_path):
    results = {"bbox": perfect(scenes)[1:] + [{**perfect(scenes)[0], "bbox": [0, 0, 5, 5]}]}
    errors = write_analysis(RunFolder(tmp_path), scenes, results, coco_evaluators(scenes, results))
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"curves.json", "confusion.json", "errors.json", "worst.png", "evaluation.png"}
    content = json.loads((tmp_path / "errors.json").read_text())
    assert content == {"score": 0.3, **errors} and content["worst"][0] == {"image_id": 10, "file": "0.png", "missed": 1, "false": 1}
    assert json.loads((tmp_path / "curves.json").read_text())["bbox"]["classes"].keys() == {"square", "triangle", "disc"}


def test_a_perfect_result_has_no_worst_picture(scenes, tmp_path):
    results = {"bbox": perfect(scenes)}
    errors = write_analysis(RunFolder(tmp_path), scenes, results, coco_evaluators(scenes, results))
    assert errors["worst"] == [] and not (tmp_path / "worst.png").exists()
    assert {errors["bbox"][kind]["count"] for kind in KINDS} == {0}
    none = {"bbox": []}
    errors = write_analysis(RunFolder(tmp_path), scenes, none, coco_evaluators(scenes, none))
    assert errors["bbox"]["missed"]["dAP50"] == 1
