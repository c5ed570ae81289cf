"""What train, validation, test and unlabeled pictures of a composed set show."""

import json
import shutil
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mcl.config.base import from_values
from mcl.config.data import DataComposeSettings
from mcl.errors import UserError
from mcl.run.data import data_compose
from mcl.sets.classes import find_classes, walk_images
from mcl.sets.compose import source_sides
from mcl.sets.cutouts import Source, cutout_at
from mcl.sets.distinct import SAME_PICTURE, Findings, Thumbnails
from mcl.sets.find import Found, find_sources
from mcl.sets.pool import mapper
from mcl.sets.shrunk import shrunk_pictures
from mcl.sets.splits import split_sources
from sets.sources import SMALL, draw_cutout, settings


def found(classes=("ball", "tent"), cutouts=20, photos=20, extra=0):
    def some(name, count):
        return [Source(f"{name}/{i}") for i in range(count)]

    return Found(
        {name: some(name, cutouts) for name in classes},
        {"other": some("other", extra)},
        some("photo", photos),
    )


def split(found, findings=None, **changes):
    values = {"out": "x", "cutouts": "x", "backgrounds": "x"} | changes
    return split_sources(found, from_values(DataComposeSettings, values), findings or Findings())


def names(sources):
    return {source.name for cutouts in sources.cutouts.values() for source in cutouts}


def test_splits_share_nothing_and_have_their_shares():
    splits = split(found(cutouts=40, photos=40), val_scenes=1, test_fraction=0.25, val_fraction=0.15)
    parts = [splits.train, splits.val, splits.test]
    assert [len(names(part)) for part in parts] == [48, 12, 20]
    assert [len(part.photos) for part in parts] == [24, 6, 10]
    for kind in (names, lambda part: {photo.name for photo in part.photos}):
        assert len(set.union(*map(kind, parts))) == sum(len(kind(part)) for part in parts)


def test_validation_takes_from_train_only():
    """The test set stays as it is without validation, so that results compare."""
    without, with_val = split(found()), split(found(), val_scenes=5)
    assert names(without.test) == names(with_val.test)
    assert [photo.name for photo in without.test.photos] == [photo.name for photo in with_val.test.photos]
    assert names(with_val.train) < names(without.train) and without.val is None


def test_small_classes_keep_two_of_each_split():
    findings = Findings()
    splits = split(found(cutouts=6, photos=3), findings, val_scenes=1, test_fraction=0.9, val_fraction=0.05)
    assert [len(names(part)) for part in (splits.train, splits.val, splits.test)] == [4, 4, 4]
    with pytest.raises(
        UserError, match="5 distinct cut-outs, but train, val and test need 2 different ones each"
    ):
        split(found(cutouts=5), val_scenes=1)
    with pytest.raises(UserError, match="2 distinct photos only; train, val and test need different ones"):
        split(found(photos=2), val_scenes=1)


def test_part_of_the_objects_is_labelled():
    few, more = (split(found(cutouts=40, extra=7), labelled_fraction=share) for share in (0.2, 0.5))
    assert [len(few.train.cutouts[name]) for name in ("ball", "tent")] == [6, 6]
    assert names(few.train) < names(more.train), "more labels hold the fewer ones"
    assert names(few.unlabeled) == names(more.unlabeled)
    assert len(names(few.unlabeled)) == 67 and list(few.unlabeled.cutouts) == ["ball", "tent", "other"]
    assert names(few.test) == names(more.test) and not names(few.test) & names(few.unlabeled)
    assert len(names(split(found(cutouts=5), labelled_fraction=0.01).train)) == 2, "one a class at least"


def test_validation_scenes_are_written(folders, tmp_path):
    summary = data_compose(settings(folders, tmp_path / "out", val_scenes=4, labelled_fraction=0.5))
    assert summary["val_images"] == 4 and "never on the test" in summary["message"]
    sets = {
        split: json.loads((tmp_path / f"out/{split}.json").read_text()) for split in ("train", "val", "test")
    }
    assert all((tmp_path / "out" / image["file_name"]).is_file() for image in sets["val"]["images"])
    assert all(data["categories"] == sets["train"]["categories"] for data in sets.values())
    assert sets["val"]["info"]["settings"]["labelled_fraction"] == 0.5
    shown = [{item["source"] for item in data["annotations"]} for data in sets.values()]
    assert all(shown) and len(set.union(*shown)) == sum(map(len, shown))
    data_compose(settings(folders, tmp_path / "out", overwrite=True))
    assert not (tmp_path / "out/val.json").exists() and not (tmp_path / "out/images/val").exists()


@contextmanager
def prepared(folders, tmp_path, **changes):
    findings, chosen = Findings(), settings(folders, tmp_path / "x", **changes)
    with shrunk_pictures(tmp_path / "shrunk", 1) as shrunk, mapper(1) as run:
        yield find_sources(chosen, source_sides(chosen), shrunk, run, findings), findings


def test_more_cutouts_for_unlabeled_images(folders, tmp_path):
    for i in range(3):
        draw_cutout(tmp_path / "more/any/where" / f"m{i}.png", (10, 80 * i, 250 - 80 * i, 255), sides=6)
    shutil.copy(folders / "cutouts/ball/deep er/b0.png", tmp_path / "more")
    changes = {"include": ["ball"], "unlabeled_classes": ["ra*"], "unlabeled_cutouts": tmp_path / "more"}
    with prepared(folders, tmp_path, **changes) as (sources, findings):
        assert list(sources.cutouts) == ["ball"] and list(sources.extra) == ["rare", str(tmp_path / "more")]
        more = [source.name for source in sources.extra[str(tmp_path / "more")]]
    assert more == [f"any/where/m{i}.png" for i in range(3)]
    assert "copy of ball/deep er/b0.png" in findings.skipped[str(tmp_path / "more/b0.png")], (
        "it may be a test's"
    )
    summary = data_compose(settings(folders, tmp_path / "out", include=["ball"], unlabeled_classes=["rare"]))
    assert summary["classes"] == ["ball"] and "unlabeled images 7 (with those of train)" in summary["message"]


def test_a_linked_file_is_opened_once(folders, tmp_path, monkeypatch):
    shutil.copytree(folders / "cutouts/tent", tmp_path / "cutouts/tent")
    (tmp_path / "cutouts/tent/z-soft.png").symlink_to(tmp_path / "cutouts/tent/t0.png")
    (tmp_path / "cutouts/tent/z-hard.png").hardlink_to(tmp_path / "cutouts/tent/t0.png")
    (tmp_path / "cutouts/tent/z-lost.png").symlink_to(tmp_path / "nowhere.png")
    opened = []
    monkeypatch.setattr(
        "mcl.sets.find.cutout_at", lambda path, side: opened.append(path) or cutout_at(path, side)
    )
    with prepared(folders, tmp_path, cutouts=tmp_path / "cutouts") as (_, findings):
        pass
    for name in ("z-soft.png", "z-hard.png"):
        assert findings.skipped[str(tmp_path / "cutouts/tent" / name)] == "link to tent/t0.png"
        assert tmp_path / "cutouts/tent" / name not in opened
    assert tmp_path / "cutouts/tent/t0.png" in opened
    assert str(tmp_path / "cutouts/tent/z-lost.png") in findings.skipped


def test_copies_are_those_of_all_pictures():
    """The search in two steps finds what comparing with every picture kept finds."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (12, 12, 4)) for _ in range(70)]
    for _ in range(130):
        picture = pictures[rng.integers(len(pictures))][:, :: rng.choice([1, -1])]
        noisy = picture + rng.integers(-1, 2, picture.shape) * rng.uniform(2, 7) + rng.uniform(-2, 2)
        pictures.append(np.clip(noisy, 0, 255).astype(int))
    seen, kept, copies = Thumbnails(), [], 0
    for index, picture in enumerate(pictures):
        found = seen.copy_of(str(index), picture.astype(np.uint8).tobytes())
        expected = None
        for side in (picture, picture[:, ::-1]):
            distances = [np.abs(pictures[k] - side).mean() for k in kept]
            if expected is None and distances and min(distances) < SAME_PICTURE:
                expected = str(kept[int(np.argmin(distances))])
        assert found == expected
        copies += found is not None
        kept += [index] if found is None else []
    assert 30 < copies < 130 and len(kept) > 64


def test_one_image_an_object(folders, tmp_path):
    """As many pictures as objects, and each object in one: their colours tell them apart."""
    for i, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)]):
        draw_cutout(tmp_path / "cutouts/disk" / f"d{i}.png", (*colour, 255))
    changes = {"unlabeled_scenes": 0, "unlabeled_objects": 99, "unlabeled_once": True, "brightness": 0.0}
    changes |= {"cutouts": tmp_path / "cutouts", "min_visible_pixels": 4000, "labelled_fraction": 0.4}
    summary = data_compose(settings(folders, tmp_path / "out", **changes))
    assert summary["unlabeled"] == 3
    middles = set()
    for path in (tmp_path / "out/unlabeled/objects").iterdir():
        pixel = np.asarray(Image.open(path))[28:36, 28:36].mean(axis=(0, 1))
        middles.add(tuple((pixel > 128).tolist()))
        assert (np.abs(pixel - 255 * (pixel > 128)) < 25).all(), (
            "shown even where too little of it can be seen"
        )
    assert len(middles) == 3
    fewer = data_compose(settings(folders, tmp_path / "fewer", **changes | {"unlabeled_objects": 2}))
    assert fewer["unlabeled"] == 2
    first = "unlabeled/objects/000000.jpg"
    assert (tmp_path / "out" / first).read_bytes() == (tmp_path / "fewer" / first).read_bytes()


def test_class_depth_and_supercategories(folders, tmp_path):
    colours = [(250, 20, 20, 255), (20, 250, 20, 255), (20, 20, 250, 255), (250, 250, 20, 255)]
    for sides, name in enumerate(("animals/birds", "animals/bugs/small", "animals"), 3):
        for i, colour in enumerate(colours):
            draw_cutout(tmp_path / "cutouts" / name / f"{sides}{i}.png", colour, sides=sides)
    classes = find_classes(tmp_path / "cutouts", depth=2)
    assert {name: len(paths) for name, paths in classes.items()} == {
        "animals": 4, "animals/birds": 4, "animals/bugs": 4,
    }  # fmt: skip
    assert list(find_classes(tmp_path / "cutouts")) == ["animals"]
    data_compose(settings(folders, tmp_path / "out", cutouts=tmp_path / "cutouts", class_depth=2))
    categories = json.loads((tmp_path / "out/train.json").read_text())["categories"]
    assert [(c["name"], c["supercategory"]) for c in categories] == [
        ("animals", ""), ("animals/birds", "animals"), ("animals/bugs", "animals"),
    ]  # fmt: skip


def test_links_are_followed_when_asked_for(tmp_path):
    draw_cutout(tmp_path / "elsewhere/a.png", (1, 2, 3, 255))
    draw_cutout(tmp_path / "cutouts/here/b.png", (3, 2, 1, 255))
    for name in ("linked", "again"):
        (tmp_path / "cutouts" / name).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/circle").symlink_to(tmp_path / "cutouts")

    def walked(follow):
        return [
            path.relative_to(tmp_path / "cutouts").as_posix()
            for path in walk_images(tmp_path / "cutouts", "--cutouts", follow)
        ]

    assert walked(False) == ["here/b.png"]
    assert walked(True) == ["again/a.png", "here/b.png"], "each once, and circles end"


def test_shrunk_pictures_are_those_of_the_files(folders, tmp_path):
    cutout_side, photo_side = source_sides(settings(folders, tmp_path / "x"))
    with prepared(folders, tmp_path) as (sources, _):
        for source in sources.cutouts["tent"]:
            same(source, lambda picture: picture.cutout(cutout_side))
        for source in sources.photos:
            same(source, lambda picture: picture.photo(photo_side))


def same(source, draw):
    kept, fresh = draw(source), draw(Source(source.name, source.path))
    assert source.stored and kept.mode == fresh.mode and kept.tobytes() == fresh.tobytes()


def test_shrunk_files_are_bounded_and_removed(tmp_path):
    with shrunk_pictures(tmp_path / "shrunk", 1) as ample:
        shrunk = replace(ample, most_bytes=10)
        two, one = Image.frombytes("RGB", (1, 2), b"abcdef"), Image.frombytes("RGBA", (1, 1), b"wxyz")
        kept = shrunk.add(two)
        assert shrunk.add(two) is None, "such a picture is decoded from its file"
        small = shrunk.add(one)
        assert kept.read().tobytes() == b"abcdef" and small.read().getpixel((0, 0)) == tuple(b"wxyz")
    assert not (tmp_path / "shrunk").exists()
    with shrunk_pictures(tmp_path / "shrunk", 1) as shrunk:
        assert shrunk.add(one).read().tobytes() == b"wxyz", "nothing is left of the files before"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"unlabeled_classes": ["tant"]}, "--unlabeled_classes: no class 'tant'"),
        ({"include": ["ball"], "unlabeled_classes": ["tant"]}, "did you mean 'tent'"),
        ({"unlabeled_cutouts": "nowhere"}, "--unlabeled_cutouts .*no such folder"),
        ({"unlabeled_once": True}, "set unlabeled_scenes to 0"),
        ({"val_scenes": 1, "test_fraction": 0.6, "val_fraction": 0.4}, "leave nothing to train on"),
        ({"labelled_fraction": 0.0}, "labelled_fraction"),
        ({"class_depth": 0}, "class_depth"),
    ],
)
def test_bad_settings(folders, tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        data_compose(settings(folders, tmp_path / "out", **changes))
    assert not (tmp_path / "out/train.json").exists()


def test_out_below_more_cutouts(folders, tmp_path):
    with pytest.raises(UserError, match="lies in --unlabeled_cutouts"):
        data_compose(settings(folders, tmp_path / "out", unlabeled_cutouts=tmp_path))


def test_workers_write_the_same_with_all_settings(folders, tmp_path):
    changes = SMALL | {"val_scenes": 2, "labelled_fraction": 0.5, "unlabeled_classes": ["rare"]}
    changes |= {"include": ["ball", "tent"], "unlabeled_once": True, "unlabeled_scenes": 0}
    for workers in (1, 2):
        data_compose(settings(folders, tmp_path / str(workers), workers=workers, **changes))
    files = [path.relative_to(tmp_path / "1") for path in (tmp_path / "1").rglob("*") if path.is_file()]
    assert len(files) > 25
    for name in files:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name
