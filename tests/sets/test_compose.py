"""Composing: masks, splits, determinism, bad folders."""

import json
import shutil

import numpy as np
import pytest
from faster_coco_eval import COCO
from PIL import Image, ImageDraw

from mcl.config.base import from_values
from mcl.config.data import DataComposeSettings
from mcl.errors import UserError
from mcl.run.data import data_compose
from mcl.sets.classes import choose_classes, find_classes, other_classes
from mcl.sets.compose import Composer, Picture
from mcl.sets.cutouts import Source, Sources
from mcl.sets.folders import prepare_output, publish
from sets.sources import SMALL, settings


@pytest.fixture(scope="session")
def composed(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("composed") / "set"
    return out, data_compose(settings(folders, out))


def test_layout_and_summary(composed):
    out, summary = composed
    assert len(list((out / "unlabeled/objects").iterdir())) == 3
    assert len(list((out / "unlabeled/scenes").iterdir())) == 4
    assert summary["unlabeled"] == 7 and summary["train_images"] == 16 and summary["test_images"] == 5
    assert summary["classes"] == ["ball", "tent"]
    assert "mcl pretrain --data" in summary["message"] and "'rare' dropped: 3 distinct" in summary["message"]
    assert Image.open(out / "preview.png").width > 500
    skipped = (out / "skipped.txt").read_text()
    for name, reason in (
        ("again", "copy of"),
        ("t2_mirror", "mirror image of t2"),
        ("opaque", "no transparent"),
        ("broken.png", ""),
        ("empty.jpg", "empty"),
    ):
        assert any(name in line and reason in line for line in skipped.splitlines()), name
    assert not list(out.glob(".mcl-partial"))


def test_coco_reads_and_boxes_fit_masks(composed):
    out, _ = composed
    for split in ("train", "test"):
        coco = COCO(str(out / f"{split}.json"))
        assert coco.dataset["info"]["seed"] == 0 and coco.dataset["info"]["settings"]["max_objects"] == 4
        assert [c["id"] for c in coco.dataset["categories"]] == [1, 2]
        for annotation in coco.dataset["annotations"]:
            mask = coco.annToMask(annotation)
            rows, columns = np.nonzero(mask)
            left, top, width, height = annotation["bbox"]
            assert mask.shape == (64, 64) and mask.sum() == annotation["area"] >= 30
            assert (left, top) == (columns.min(), rows.min())
            assert (left + width, top + height) == (columns.max() + 1, rows.max() + 1)
        for image in coco.dataset["images"]:
            masks = [coco.annToMask(a) for a in coco.imgToAnns[image["id"]]]
            assert not masks or sum(masks).max() <= 1, "visible masks overlap"
            assert Image.open(out / image["file_name"]).size == (64, 64)


def test_train_and_test_share_no_source(composed):
    out, _ = composed
    sets = {split: json.loads((out / f"{split}.json").read_text()) for split in ("train", "test")}
    for key, kind in (("source", "annotations"), ("background", "images")):
        used = {split: {item[key] for item in data[kind]} for split, data in sets.items()}
        assert used["train"] and used["test"] and not used["train"] & used["test"]


def test_same_bytes_for_any_number_of_workers(composed, folders, tmp_path):
    out, _ = composed
    data_compose(settings(folders, tmp_path / "again", workers=2))
    files = [path.relative_to(out) for path in out.rglob("*") if path.is_file()]
    assert len(files) > 30
    for name in files:
        assert (out / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_image_depends_only_on_seed_and_index(composed, folders, tmp_path):
    out, _ = composed
    data_compose(
        settings(folders, tmp_path / "fewer", train_scenes=3, unlabeled_objects=0, unlabeled_scenes=0)
    )
    data_compose(settings(folders, tmp_path / "other", train_scenes=3, unlabeled_objects=0, seed=1))
    first = "images/train/000002.jpg"
    assert (tmp_path / "fewer" / first).read_bytes() == (out / first).read_bytes()
    assert (tmp_path / "other" / first).read_bytes() != (out / first).read_bytes()


def disk(size, colour):
    image = Image.new("RGBA", (size, size))
    ImageDraw.Draw(image).ellipse((0, 0, size - 1, size - 1), fill=colour)
    return Source("disk", picture=image)


def composer(**changes):
    grey = Source("grey", picture=Image.new("RGB", (64, 64), (128, 128, 128)))
    values = SMALL | {"out": "x", "cutouts": "x", "backgrounds": "x", "min_objects": 6, "max_objects": 6}
    values |= {"brightness": 0.0, "edge_softness": 0.0, "rotation": 0.0}
    red = disk(40, (255, 0, 0, 255))
    return Composer(
        Sources({"red": [red], "blue": [disk(40, (0, 0, 255, 255))]}, [grey]),
        from_values(DataComposeSettings, values | changes),
    )


def test_masks_are_what_is_seen():
    """Colours tell objects apart: a visible pixel has its object's colour, every coloured pixel an object."""
    for index in range(20):
        picture = composer().scene(np.random.default_rng([1, index]))
        pixels = np.asarray(picture.image).astype(int)
        seen = np.zeros((64, 64), bool)
        for placed in picture.objects:
            strong, other = (0, 2) if placed.label == 0 else (2, 0)
            # Not all: two half-transparent edges may meet.
            assert (pixels[placed.visible][:, strong] > pixels[placed.visible][:, other]).mean() > 0.97
            seen |= placed.visible
        coloured = np.abs(pixels[..., 0] - pixels[..., 2]) > 200
        assert (coloured <= seen).all()


def test_least_visible_share_and_pixels():
    for index in range(20):
        made = composer(min_visible=0.7, min_visible_pixels=120)
        for placed in made.scene(np.random.default_rng([2, index])).objects:
            assert placed.visible.sum() >= max(0.7 * placed.area, 120)


def test_no_place_left_is_left_out_of_picture_and_labels():
    made = composer(min_visible=1.0, overhang=0.0, min_size=40, max_size=40)
    picture = made.scene(np.random.default_rng(0))
    assert 1 <= len(picture.objects) < 6
    coloured = np.ptp(np.asarray(picture.image).astype(int), axis=2) > 200
    assert coloured.sum() <= sum(placed.visible.sum() for placed in picture.objects)


def test_contrast_prefers_what_can_be_seen():
    grey = {"red": [disk(40, (128, 128, 128, 255)), disk(40, (255, 255, 255, 255))]}
    made = composer(min_contrast=60, min_objects=1, max_objects=1)
    made.classes = list(grey.values())
    whites = 0
    for index in range(20):
        picture: Picture = made.scene(np.random.default_rng([3, index]))
        whites += int(np.asarray(picture.image)[picture.objects[0].visible].mean() > 200)
    assert whites >= 18


def test_sizes_up_to_one_are_fractions():
    made = composer(min_size=0.5, max_size=0.5, min_objects=1, max_objects=1, overhang=0.0)
    placed = made.scene(np.random.default_rng(0)).objects[0]
    assert np.ptp(np.nonzero(placed.visible)[1]) + 1 == pytest.approx(32, abs=1)


def test_class_map(folders, tmp_path):
    path = tmp_path / "map.yaml"
    path.write_text("classes: {round: ['ball/*'], rest: ['*']}\nexclude: ['rare/*']\n")
    classes = find_classes(folders / "cutouts", str(path))
    assert len(classes["round"]) == 6 and {p.parent.name for p in classes["rest"]} == {"tent"}
    assert list(choose_classes(classes, ["*"], ["ro*"])) == ["rest"]
    assert list(other_classes(classes, ["rest"], ["*"])) == ["round"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "expected 'classes:'"),
        ("classes: {a: b}", "expected 'classes:'"),
        ("classes: {a: ['zzz/*']}", "no pattern"),
        ("a: [", "not valid YAML"),
        (None, "cannot be read"),
    ],
)
def test_bad_class_map(folders, tmp_path, text, words):
    path = tmp_path / "map.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=words):
        find_classes(folders / "cutouts", str(path))


def test_shipped_map_reads():
    from mcl.sets.classes import read_class_map

    classes, exclude = read_class_map("stamps")
    assert {"bird", "mammal", "fruit", "flower", "vehicle", "sign"} <= set(classes) and exclude


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cutouts": "nowhere"}, "--cutouts .*no such folder"),
        ({"backgrounds": "nowhere"}, "--backgrounds .*no such folder"),
        ({"include": ["tnt"]}, "did you mean 'tent'"),
        ({"exclude": ["*"]}, "leaves no class"),
        ({"include": ["rare"]}, "'rare' dropped: 3 distinct cut-outs"),
        ({"min_size": 50}, r"min_size \(50\) is larger than max_size \(40\)"),
        ({"max_size": 400}, "at most twice image_size"),
        ({"test_fraction": 1.0}, "test_fraction"),
    ],
)
def test_bad_settings(folders, tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        data_compose(settings(folders, tmp_path / "out", **changes))
    assert not (tmp_path / "out/train.json").exists()


def test_folders_that_cannot_be_used(folders, tmp_path):
    flat, one = tmp_path / "flat", tmp_path / "one"
    flat.mkdir()
    one.mkdir()
    with pytest.raises(UserError, match="no image"):
        data_compose(settings(folders, tmp_path / "out", cutouts=flat))
    shutil.copy(folders / "cutouts/tent/t1.png", flat)
    with pytest.raises(UserError, match="no class folder"):
        data_compose(settings(folders, tmp_path / "out", cutouts=flat))
    (flat / "tent").mkdir()
    shutil.copy(folders / "cutouts/tent/opaque.png", flat / "tent")
    with pytest.raises(UserError, match="no cut-out can be used.*no transparent pixel"):
        data_compose(settings(folders, tmp_path / "out", cutouts=flat))
    shutil.copy(folders / "photos/more/p1.jpg", one)
    with pytest.raises(UserError, match="one distinct photo"):
        data_compose(settings(folders, tmp_path / "out", backgrounds=one))
    with pytest.raises(UserError, match="lies in --backgrounds"):
        data_compose(settings(folders, folders / "photos/out"))


def test_output_folder_rules(tmp_path):
    out = tmp_path / "out"
    stage = prepare_output(out, overwrite=False)
    (stage / "train.json").write_text("1")
    prepare_output(out, overwrite=False)  # a killed run left no set
    assert not list(stage.iterdir())
    (stage / "images/train").mkdir(parents=True)
    (stage / "images/train/000000.jpg").touch()
    (stage / "train.json").write_text("2")
    publish(stage)
    assert (out / "train.json").read_text() == "2" and not stage.exists()
    with pytest.raises(UserError, match="not empty"):
        prepare_output(out, overwrite=False)
    stage = prepare_output(out, overwrite=True)
    assert (out / "train.json").exists(), "the old set stays until the new one is there"
    (stage / "train.json").write_text("3")
    publish(stage)
    assert (out / "train.json").read_text() == "3" and not (out / "images").exists()
    (out / "unlabeled").mkdir()
    (out / "unlabeled/mine.jpg").touch()
    with pytest.raises(UserError, match="unlabeled/mine.jpg, which mcl data did not write"):
        prepare_output(out, overwrite=True)
    assert (out / "unlabeled/mine.jpg").exists()


def test_output_folder_of_others(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        prepare_output(tmp_path / "file", overwrite=True)
    with pytest.raises(UserError, match="cannot be written"):
        prepare_output(tmp_path / "file/below", overwrite=True)
    with pytest.raises(UserError, match="not written by mcl data"):
        prepare_output(tmp_path, overwrite=True)
    assert (tmp_path / "file").exists()
