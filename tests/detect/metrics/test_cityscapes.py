"""Cityscapes' instance AP equals that of the official scripts, and what can be worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from faster_coco_eval.core import mask as rle
from PIL import Image

from layouts import write
from mcl.data.labels.cityscapes import CLASSES
from mcl.data.labels.formats import read_labels
from mcl.data.labels.scenes import object_mask
from mcl.detect.evaluate import coco_numbers
from mcl.detect.metrics.cityscapes import cityscapes_numbers

SIZE = (160, 120)


def busy(root, count: int, rng: np.random.Generator) -> str:
    """Streets of overlapping outlines: objects large and small, groups, void, classes that are not measured."""
    layout = write("cityscapes", root, "val", count, seed=4, size=SIZE)
    labels = ["car", "person", "bicycle", "cargroup", "persongroup", "static", "trailer", "sky", "rider"]
    for file in sorted(root.glob("gtFine/val/*/*.json")):
        content = json.loads(file.read_text())
        for _ in range(14):
            x, y = rng.integers(0, 120), rng.integers(0, 90)
            side = rng.integers(6, 50)
            points = np.stack([x + rng.integers(0, side, 6), y + rng.integers(0, side, 6)], 1)
            points = points[np.argsort(np.arctan2(*(points - points.mean(0)).T))]
            content["objects"].append({"label": str(rng.choice(labels)), "polygon": points.tolist()})
        file.write_text(json.dumps(content))
    return layout.given


def some_results(scenes, rng: np.random.Generator) -> list[dict]:
    """Objects moved a little, some under another class, some twice; and rectangles anywhere. Some scores are equal."""
    results = []
    for scene in scenes.scenes:
        masks = [(thing.category, object_mask(thing, scene.height, scene.width)) for thing in scene.objects for _ in range(2)]
        for _ in range(6):
            mask = np.zeros((scene.height, scene.width), np.uint8)
            x, y, side = rng.integers(0, 120), rng.integers(0, 90), rng.integers(5, 40)
            mask[y : y + side, x : x + side] = 1
            masks.append((int(rng.choice(list(CLASSES.values()))), mask))
        for category, mask in masks:
            moved = np.roll(mask, rng.integers(-2, 3, 2), (0, 1))
            number = category if rng.random() < 0.8 else int(rng.choice(list(CLASSES.values())))
            encoded = rle.encode(np.asfortranarray(moved))
            results.append({"image_id": scene.id, "category_id": number, "score": round(float(rng.random()), 1), "segmentation": encoded})
    return results


def test_equals_the_official_scripts(tmp_path, monkeypatch):
    official = pytest.importorskip(
        "cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling", exc_type=ImportError
    )
    from cityscapesscripts.helpers.annotation import Annotation
    from cityscapesscripts.preparation.json2instanceImg import createInstanceImage

    monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # which they still ask for
    rng = np.random.default_rng(5)
    scenes = read_labels(busy(tmp_path, 5, rng))
    results = some_results(scenes, rng)
    ours = cityscapes_numbers(scenes, results)

    truths, lists = [], []
    (tmp_path / "found").mkdir()
    files = sorted(tmp_path.glob("gtFine/val/*/*_polygons.json"))
    for scene, file in zip(scenes.scenes, files, strict=True):
        truths.append(str(file).replace("_polygons.json", "_instanceIds.png"))
        polygons = Annotation()
        polygons.fromJsonFile(str(file))
        ids = np.asarray(createInstanceImage(polygons, "ids"))
        Image.fromarray(ids.astype(np.uint16)).save(truths[-1])  # their own writer's mode is none that Pillow 13 writes
        lines = []
        for k, result in enumerate(r for r in results if r["image_id"] == scene.id):
            name = f"{scene.id}-{k}.png"
            Image.fromarray(rle.decode(result["segmentation"]).reshape(scene.height, scene.width) * 255).save(tmp_path / "found" / name)
            lines.append(f"{name} {result['category_id']} {result['score']}\n")
        lists.append(str(tmp_path / "found" / f"{scene.id}.txt"))
        (tmp_path / "found" / f"{scene.id}.txt").write_text("".join(lines))
    monkeypatch.setattr(official, "writeDict2JSON", lambda *_: None)  # a cache; today's numpy numbers fail there
    arguments = official.args
    monkeypatch.chdir(tmp_path)  # they write files where they stand
    for key, value in {
        "gtInstancesFile": str(tmp_path / "gt.json"), "quiet": True, "JSONOutput": False,
        "predictionPath": str(tmp_path / "found"), "distanceAvailable": False,
    }.items():  # fmt: skip
        monkeypatch.setattr(arguments, key, value)
    average = official.evaluateImgLists(lists, truths, arguments)["averages"]
    assert 0.05 < average["allAp"] < 0.95
    assert ours["AP"] == pytest.approx(average["allAp"], abs=1e-5)
    assert ours["AP50"] == pytest.approx(average["allAp50%"], abs=1e-5)
    for name, value in ours["per_class"].items():
        theirs = average["classes"][name]["ap"]
        assert (value is None and np.isnan(theirs)) or value == pytest.approx(theirs, abs=1e-5), name


def perfect(scenes) -> list[dict]:
    return [
        {"image_id": s.id, "category_id": t.category, "score": 0.9, "segmentation": t.segmentation}
        for s in scenes.scenes for t in s.objects if not t.crowd
    ]  # fmt: skip


def test_by_hand(tmp_path):
    layout = write("cityscapes", tmp_path, "val", 4, seed=3, size=SIZE)
    scenes = read_labels(layout.given)
    results = perfect(scenes)
    numbers = cityscapes_numbers(scenes, results)
    assert numbers["AP"] == numbers["AP50"] == 1 and numbers["per_class"]["bus"] is None
    assert cityscapes_numbers(scenes, [])["AP"] == 0
    # Small objects are not asked for, so that missing them costs nothing.
    areas = [t.area for s in scenes.scenes for t in s.objects]
    assert min(areas) > 100
    boxes = [{**r, "bbox": [0, 0, 1, 1]} for r in results]
    assert coco_numbers(scenes, {"bbox": boxes, "segm": results})["cityscapes"] == numbers


def test_what_lies_on_void_or_a_group_is_passed_over(tmp_path):
    layout = write("cityscapes", tmp_path, "val", 2, seed=3, size=SIZE)
    file = min(tmp_path.glob("gtFine/val/*/*.json"))  # image 1

    def square(x, label):
        return {"label": label, "polygon": [[x, 20], [x + 19, 20], [x + 19, 39], [x, 39]]}

    content = {"imgWidth": SIZE[0], "imgHeight": SIZE[1], "objects": [
        {"label": "road", "polygon": [[0, 0], [159, 0], [159, 119], [0, 119]]}, square(10, "car"), square(50, "cargroup"), square(90, "static"),
    ]}  # fmt: skip
    file.write_text(json.dumps(content))
    scenes = read_labels(layout.given)

    def at(x):
        mask = np.zeros(SIZE[::-1], np.uint8)
        mask[20:40, x : x + 20] = 1
        return {"image_id": 1, "category_id": 26, "score": 0.95, "segmentation": rle.encode(np.asfortranarray(mask))}

    hit = {**at(10), "score": 0.5}
    assert cityscapes_numbers(scenes, [hit, at(50), at(90)])["per_class"]["car"] == 1
    assert cityscapes_numbers(scenes, [hit, at(130)])["per_class"]["car"] < 1
