"""Every label format by one contract: the same pictures written in each layout are the same scenes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from layouts import CLASSES, KINDS, toys, write
from mcl.data.labels.contract import Problems
from mcl.data.labels.convert import as_coco
from mcl.data.labels.formats import find_labels, read_labels
from mcl.data.labels.scenes import CocoDetection, Framing, object_mask
from mcl.errors import UserError

SIZE = (64, 48)


def told(scenes) -> dict[str, set]:
    """Toy's name -> its objects as (class, box in whole pixels)."""
    return {
        re.search(r"\d{6}(?=_000019|\.)", scene.path.name)[0]: {
            (scenes.categories[thing.category], *(round(v, 3) for v in thing.box)) for thing in scene.objects
        }
        for scene in scenes.scenes
    }


def meant(pictures) -> dict[str, set]:
    return {toy.name: {(name, *map(float, box)) for name, *box in toy.things} for toy in pictures}


@pytest.mark.parametrize("named", [False, True], ids=["detected", "named"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_gives_the_same_scenes(kind, named, tmp_path):
    layout = write(kind, tmp_path, "train", 5, seed=3)
    given = f"{kind}:{layout.given}" if named else layout.given
    scenes = read_labels(given, layout.images)
    assert told(scenes) == meant(toys(5, 3))
    assert scenes.measured_as == {"yolo": "coco"}.get(kind, kind)
    assert all((scene.width, scene.height) == SIZE for scene in scenes.scenes)
    assert [scene.id for scene in scenes.scenes] == [1, 2, 3, 4, 5]
    image, target = CocoDetection(scenes, list(scenes.categories.values()), Framing(64), masks=False)[0]
    assert image.shape == (3, 48, 64) and len(target["boxes"]) == len(toys(5, 3)[0].things)


@pytest.mark.parametrize("kind", ["coco", "lvis", "cityscapes"])
def test_masks_are_the_rectangles(kind, tmp_path):
    layout = write(kind, tmp_path)
    scenes = read_labels(layout.given, layout.images)
    objects, masked = scenes.count_objects()
    assert objects == masked > 0
    for scene in scenes.scenes:
        for thing in scene.objects:
            x1, y1, x2, y2 = map(round, thing.box)
            mask = object_mask(thing, scene.height, scene.width)
            assert mask.sum() == (x2 - x1) * (y2 - y1) == thing.area and mask[y1:y2, x1:x2].all()


@pytest.mark.parametrize("kind", KINDS)
def test_converted_it_is_the_same_set(kind, tmp_path):
    layout = write(kind, tmp_path)
    scenes = read_labels(layout.given, layout.images)
    content, root = as_coco(scenes)
    file = tmp_path / "converted.json"
    file.write_text(json.dumps(content))
    again = read_labels(file, root)
    assert told(again) == told(scenes) and again.measured_as == scenes.measured_as
    assert again.frequency == scenes.frequency and again.categories == scenes.categories
    for one, other in zip(scenes.scenes, again.scenes, strict=True):
        assert one.path.samefile(other.path) and one.extra == other.extra
        assert [t.difficult for t in one.objects] == [t.difficult for t in other.objects]
        assert [t.area for t in one.objects] == [t.area for t in other.objects]


def test_voc_years_are_joined(tmp_path):
    import layouts

    first = write("voc", tmp_path, "trainval", 3, seed=1)
    layouts._voc(tmp_path, "trainval", toys(2, 2), SIZE, "VOC2012")
    scenes = read_labels(f"voc:{first.given},{tmp_path / 'VOC2012/ImageSets/Main/trainval.txt'}")
    assert told(scenes) == meant(toys(3, 1) + toys(2, 2)) and [s.id for s in scenes.scenes] == [1, 2, 3, 4, 5]
    assert list(scenes.categories.values())[:2] == ["aeroplane", "bicycle"] and len(scenes.categories) == 20
    with pytest.raises(UserError, match="which image set.*trainval"):
        read_labels(tmp_path / "VOC2012")
    with pytest.raises(UserError, match="these are 2 sets"):
        find_labels(f"voc:{first.given},{tmp_path / 'VOC2012'}#trainval")


def test_voc_difficult_flat_and_without_size(tmp_path):
    layout = write("voc", tmp_path, "train", 4, seed=3)
    scenes = read_labels(layout.given)
    assert [thing.difficult for thing in scenes.scenes[0].objects] == [False] * (len(toys(4, 3)[0].things) - 1) + [True]
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in [*tmp_path.glob("VOC2007/JPEGImages/*"), *tmp_path.glob("VOC2007/Annotations/*")]:
        file.rename(flat / file.name)
    for file in flat.glob("*.xml"):
        file.write_text(file.read_text().replace("<width>64</width>", "<width>0</width>").replace("person", "tree"))
    again = read_labels(flat)
    assert all((scene.width, scene.height) == SIZE for scene in again.scenes)
    assert set(again.categories.values()) == {"bicycle", "car", "tree"}


def test_several_sets_keep_what_lvis_measures_by(tmp_path):
    one, two = (write("lvis", tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 2)))
    content = json.loads(Path(two.given).read_text())
    for category in content["categories"]:  # the same classes under other numbers
        category["id"] += 10
    for image in content["images"]:
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            image[key] = [number + 10 for number in image[key]]
        image["coco_url"] = image["coco_url"].replace("/train2017", "/b/train2017")
        image["file_name"] = f"b/{'/'.join(image['coco_url'].split('/')[-2:])}"
    for thing in content["annotations"]:
        thing["category_id"] += 10
    Path(two.given).write_text(json.dumps(content))
    alone = json.loads(Path(one.given).read_text())
    for image in alone["images"]:
        image["file_name"] = f"a/{'/'.join(image['coco_url'].split('/')[-2:])}"
    Path(one.given).write_text(json.dumps(alone))
    scenes = read_labels(f"{one.given},{two.given}", tmp_path)
    assert told(scenes) == meant(toys(4, 1) + toys(4, 2)) and scenes.frequency == {1: "r", 2: "c", 3: "f"}
    assert scenes.scenes[4].extra["neg_category_ids"] == [n - 10 for n in content["images"][0]["neg_category_ids"]]
    with pytest.raises(UserError, match="coco and lvis labels do not go together"):
        read_labels(f"lvis:{one.given},coco:{one.given}", tmp_path)


def test_cityscapes_objects_are_what_is_seen_of_them(tmp_path):
    def square(x, side, label):
        return {"label": label, "polygon": [[x, x], [x + side - 1, x], [x + side - 1, x + side - 1], [x, x + side - 1]]}

    layout = write("cityscapes", tmp_path, count=2)
    file = next(tmp_path.glob("gtFine/train/*/*.json"))
    file.write_text(json.dumps({"imgWidth": 64, "imgHeight": 48, "objects": [
        square(4, 20, "car"), square(14, 10, "person"), square(30, 8, "cargroup"), square(40, 4, "cargroup"),
        square(0, 3, "person"), square(0, 3, "static"), square(2, 2, "trailer"), {**square(50, 5, "bus"), "deleted": 1},
        {"label": "license plate", "polygon": [[5, 5], [6, 6], [5, 6]]},
    ]}))  # fmt: skip
    scenes = read_labels(layout.given)
    things = scenes.scenes[0].objects
    named = [(scenes.categories[t.category], t.crowd, t.area) for t in things]
    # The second person is wholly covered; both groups of cars are one.
    assert named == [("car", False, 300.0), ("person", False, 100.0), ("car", True, 80.0)]
    assert things[0].box == (4, 4, 24, 24) and things[2].box == (30, 30, 44, 44)
    from faster_coco_eval.core import mask as rle

    void = rle.decode(scenes.scenes[0].extra["void"]).reshape(48, 64)
    assert void.sum() == 64 * 48 - 300 - 100 - 80 - 4 and void[0, 0] and not void[3, 3] and not void[10, 10]


def test_yolo_sources_and_leftovers(tmp_path):
    write("yolo", tmp_path, "train", 3, seed=1)
    write("yolo", tmp_path, "val", 3, seed=2)
    file = tmp_path / "data.yaml"
    labels = sorted(tmp_path.glob("labels/train/*.txt"))
    labels[0].write_text(labels[0].read_text() * 2)
    scenes = read_labels(file)
    assert told(scenes) == meant(toys(3, 1))
    assert "stand twice" in scenes.notes[0] and "1 images have no label file" in scenes.notes[1]
    assert told(read_labels(file, role="val")) == told(read_labels(f"yolo:{file}#val")) == meant(toys(3, 2))
    listed = tmp_path / "some.txt"
    listed.write_text("".join(f"./images/train/{toy.name}.jpg\n" for toy in toys(3, 1)[:2]))
    content = yaml.safe_load(file.read_text())
    del content["path"]
    file.write_text(yaml.safe_dump(content | {"train": ["some.txt", "../images/val"], "names": list(CLASSES)}))
    assert told(read_labels(tmp_path)) == meant(toys(3, 1)[:2] + toys(3, 2))


def bad(file: str, old: str, new: str):
    """A change to the file that the pattern finds."""
    return lambda root: _changed(next(root.glob(file)), old, new)


def _changed(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text, (file, old)
    file.write_text(text.replace(old, new, 1) if old else new + text)


def _remove(pattern: str):
    return lambda root: next(root.glob(pattern)).unlink()


XML, TXT, CITY = "VOC2007/Annotations/*0000.xml", "labels/train/*0000.txt", "gtFine/train/*/*0000_000019_gtFine_polygons.json"


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("voc", bad(XML, "</annotation>", ""), r"0000.xml: not valid XML: .*take it out of .*train.txt"),
        ("voc", bad(XML, "<annotation>", '<!DOCTYPE a [<!ENTITY x "y">]><annotation>'), "defines entities"),
        ("voc", bad(XML, "<xmin>", "<xmin>x"), r"0000.xml: object 1 \(\w+\): bndbox has no number for xmin"),
        ("voc", bad(XML, "<ymax>", "<ymax>-"), r"0000.xml: object 1 .*are not in order; swap"),
        ("voc", bad(XML, "<name>", "<name> </name> <name>"), "0000.xml: object 1 has no <name>"),
        ("voc", _remove(XML), r"0000.xml: missing, and named in .*train.txt; take the name out"),
        ("voc", _remove("VOC2007/JPEGImages/*0000.jpg"), "1 of 4 images are missing or empty"),
        ("voc", bad("VOC2007/ImageSets/Main/train.txt", "0100", "../0100"), "train.txt:1: .*leads out"),
        ("yolo", bad(TXT, "", "1 0.5 0.5 0.2\n"), r"0000.txt:1: 4 numbers; a line is 'class x y"),
        ("yolo", bad(TXT, "", "1 0.5 0.5 0.2 0.2 0.9\n"), r"0000.txt:1: 6 numbers"),
        ("yolo", bad(TXT, "", "\n9 0.5 0.5 0.2 0.2\n"), r"0000.txt:2: class 9 is not among the names 0..2"),
        ("yolo", bad(TXT, "", "1 320 0.5 0.2 0.2\n"), r"0000.txt:1: 320 is no fraction .*divide pixels"),
        ("yolo", bad(TXT, "", "1 nan 0.5 0.2 0.2\n"), r"0000.txt:1: nan is no fraction"),
        ("yolo", bad(TXT, "", "cat 0.5 0.5 0.2 0.2\n"), r"0000.txt:1: 'cat 0.5 0.5 0.2 0.2' are not numbers"),
        ("yolo", bad("data.yaml", "names", "nomes"), "data.yaml: no 'names'"),
        ("yolo", bad("data.yaml", "nc: 3", "nc: 4"), "nc is 4, but there are 3 names"),
        ("yolo", bad("data.yaml", "train:", "trian:"), "no 'train'"),
        ("yolo", bad("data.yaml", "images/train", "images/trian"), "train: no folder .*trian"),
        ("yolo", bad("data.yaml", "path: .", "path: ["), "not valid YAML"),
        ("yolo", lambda root: next(root.glob("images/train/*0000.jpg")).write_text("no"), r"0000.jpg: .*mend the file"),
        ("cityscapes", bad(CITY, "{", ""), "polygons.json: not valid JSON"),
        ("cityscapes", bad(CITY, '"road"', '"raod"'), r"object 0: label 'raod' is none of Cityscapes' \(did you mean 'road'"),
        ("cityscapes", bad(CITY, '"imgWidth": 64', '"imgWidth": "64"'), "imgWidth must be a positive whole number, got '64'"),
        ("cityscapes", bad(CITY, "[[0, 0], ", "[[0, 0, 0], "), r"object 0 \(road\): polygon must be three or more points"),
        ("cityscapes", bad(CITY, '"objects"', '"things"'), "no list 'objects'"),
        ("lvis", bad("lvis*.json", '"frequency": "r"', '"frequency": "x"'), r"categories\[0\] has no 'frequency' r, c or f"),
        ("lvis", bad("lvis*.json", '"neg_category_ids": [', '"neg_category_ids": ["a", '), "image 1: neg_category_ids must be a list"),
        ("lvis", bad("lvis*.json", '"coco_url"', '"url"'), r"images\[0\] has neither file_name nor a coco_url"),
        ("coco", bad("annotations/*.json", '"category_id": ', '"category_id": 9'), r"annotation 1: category_id 9\d is not among"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(kind, change, words, tmp_path):
    layout = write(kind, tmp_path)
    change(tmp_path)
    with pytest.raises(UserError, match=words) as error:
        read_labels(layout.given, layout.images)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_all_problems_can_be_kept(kind, tmp_path):
    """Checking goes on after an entry that is wrong, and leaves it out."""
    layout = write(kind, tmp_path)
    breaks = {
        "coco": bad("annotations/*.json", '"bbox": [', '"bbox": ["a", '),
        "lvis": bad("lvis*.json", '"bbox": [', '"bbox": ["a", '),
        "voc": bad(XML, "<xmin>", "<xmin>x"), "cityscapes": bad(CITY, '"road"', '"raod"'),
        "yolo": bad(TXT, "", "1 0.5\n"),
    }  # fmt: skip
    whole = read_labels(layout.given, layout.images)
    breaks[kind](tmp_path)
    problems = Problems(keep=True)
    scenes = read_labels(layout.given, layout.images, problems=problems)
    assert len(problems.found) == 1
    lost = 0 if kind == "yolo" else len(whole.scenes[0].objects) if kind == "cityscapes" else 1
    assert sum(len(s.objects) for s in scenes.scenes) == sum(len(s.objects) for s in whole.scenes) - lost


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("vco:x", r"no label format 'vco' \(did you mean 'voc'\?\); there are: coco, lvis, voc, cityscapes, yolo"),
        ("gone.json", "gone.json: No such file"),
        ("voc:gone", "gone: No such file"),
        (".", "what labels are these.*coco:train.json, .*yolo:data.yaml"),
    ],
)
def test_paths_that_are_none(given, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        read_labels(given)


def test_a_path_with_signs_in_it_is_taken_as_it_is(tmp_path):
    odd = tmp_path / "a,b#c"
    layout = write("coco", odd)
    assert told(read_labels(layout.given, odd)) == meant(toys(4, 1))


def test_regions_of_a_map():
    """In one pass, what a mask for each value would be."""
    from faster_coco_eval.core import mask as rle

    from mcl.data.labels.rle import masks_of

    rng = np.random.default_rng(0)
    for shape in ((7, 5), (1, 9), (6, 1), (12, 12)):
        values = rng.integers(0, 4, shape)
        values[rng.random(shape) < 0.3] = 9
        found = masks_of(values)
        assert set(found) == set(np.unique(values))
        for value, region in found.items():
            mask = rle.decode(region.rle).reshape(shape)
            rows, columns = np.flatnonzero((values == value).any(1)), np.flatnonzero((values == value).any(0))
            assert (mask == (values == value)).all() and region.area == mask.sum()
            x, y, w, h = region.box
            assert (x, y, x + w - 1, y + h - 1) == (columns[0], rows[0], columns[-1], rows[-1])
