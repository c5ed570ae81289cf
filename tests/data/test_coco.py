"""COCO files: every mistake is one line; items are a function of (seed, epoch, index)."""

import copy
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from mcl.data.labels.coco_json import read_coco
from mcl.data.labels.scenes import CocoDetection, Framing, collate, framed_size
from mcl.data.loading.loader import plain_errors
from mcl.errors import UserError

BASE = {
    "images": [
        {"id": 1, "file_name": "a.png", "width": 40, "height": 20},
        {"id": 2, "file_name": "b.png", "width": 40, "height": 20},
    ],
    "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 7, "bbox": [2, 3, 10, 8],
         "segmentation": [[2, 3, 12, 3, 12, 11, 2, 11]]},
        {"id": 2, "image_id": 1, "category_id": 3, "bbox": [30, 10, 20, 20],
         "segmentation": [[30, 10, 40, 10, 40, 20, 30, 20]]},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[3:11, 2:12] = 255
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(folder / name)
    return folder


def changed(path: str, value) -> dict:
    """BASE with the entry at a dotted path replaced (``DEL``: removed)."""
    content = copy.deepcopy(BASE)
    *parents, leaf = (int(key) if key.isdigit() else key for key in path.split("."))
    target = content
    for key in parents:
        target = target[key]
    if value == "DEL":
        del target[leaf]
    else:
        target[leaf] = value
    return content


def read(root, content, **options):
    path = root / "ann.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_coco(path, root, **options)


@pytest.mark.parametrize(
    "content, words",
    [
        ("{", "not valid JSON"),
        ("[1]", "expected an object"),
        ("[" * 100_000, "not valid JSON"),
        (changed("images", "DEL"), "no list 'images'"),
        (changed("annotations", []), "'annotations' is empty"),
        (changed("categories", {}), "no list 'categories'"),
        (changed("images.0.id", "1"), r"images\[0\] has no whole number 'id'"),
        (changed("images.1.id", 1), "images: id 1 is given 2 times"),
        (changed("annotations.1.id", 1), "annotations: id 1 is given 2 times"),
        (changed("categories.1.id", 7), "categories: id 7"),
        (changed("categories.1.name", "cat"), "name 'cat' is given 2 times"),
        (changed("images.0.file_name", "../x.png"), "leads out"),
        (changed("images.0.file_name", "/etc/passwd"), "leads out"),
        (changed("images.0.file_name", "C:\\x.png"), "leads out"),
        (changed("images.0.width", 0), "width must be a positive"),
        (changed("images.0.file_name", "gone.png"), "1 of 2 images are missing or empty.*'gone.png'"),
        (changed("annotations.0.image_id", 99), "annotation 1: image_id 99"),
        (changed("annotations.0.image_id", [1]), "image_id must be a whole number"),
        (changed("annotations.0.category_id", 99), "annotation 1: category_id 99"),
        (changed("annotations.0.bbox", [1, 2, 3]), r"bbox must be 4 finite numbers.*\[1, 2, 3\]"),
        (json.dumps(changed("annotations.0.bbox", [1, 2, float("nan"), 3])), "bbox must be 4 finite"),
        (changed("annotations.0.bbox", "DEL"), "annotation 1: bbox"),
        (changed("annotations.0.segmentation", [[1, 2, 3]]), "segmentation must be polygons"),
        (changed("annotations.0.segmentation", {"size": [40, 20], "counts": "x"}), r"size \[40, 20\]"),
        ({**BASE, "annotations": [{**BASE["annotations"][0], "bbox": [50, 0, 5, 5]}]}, "no usable box"),
        ({**BASE, "annotations": [{**BASE["annotations"][0], "iscrowd": 1}]}, "no usable box"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(root, content, words):
    with pytest.raises(UserError, match=words) as error:
        read(root, content)
    assert "\n" not in str(error.value) and "ann.json" in str(error.value)


def test_missing_file_and_folder(root, tmp_path):
    with pytest.raises(UserError, match="nothing.json: No such file"):
        read_coco(tmp_path / "nothing.json", root)
    with pytest.raises(UserError, match="a.json: no folder .*nowhere for its images"):
        (tmp_path / "a.json").write_text(json.dumps(BASE))
        read_coco(tmp_path / "a.json", tmp_path / "nowhere")


def test_some_missing_images_are_left_out(root):
    scenes = read(root, changed("images.1.file_name", "gone.png"), max_missing=0.5)
    assert [scene.id for scene in scenes.scenes] == [1] and "gone.png" in scenes.notes[0]


def test_boxes_are_clipped_and_empty_ones_counted(root):
    content = copy.deepcopy(BASE)
    content["annotations"] += [
        {"id": 9 + k, "image_id": 2, "category_id": 3, "bbox": b}
        for k, b in enumerate([[5, 5, 0, 9], [5, 5, -4, 9]])
    ]
    scenes = read(root, content)
    assert scenes.scenes[0].objects[1].box == (30, 10, 40, 20)
    assert scenes.scenes[1].objects == () and "2 of 4 boxes" in scenes.notes[0]


def test_crowds_are_kept_but_not_trained_on(root):
    scenes = read(root, changed("annotations.1.iscrowd", 1))
    assert [thing.crowd for thing in scenes.scenes[0].objects] == [False, True]
    _, target = CocoDetection(scenes, ["dog", "cat"], Framing(64), masks=True)[0]
    assert target["labels"].tolist() == [2]


def test_objects_without_a_mask_are_counted_and_marked(root):
    assert read(root, BASE).count_objects() == (2, 2)
    scenes = read(root, changed("annotations.0.segmentation", []))
    assert scenes.count_objects() == (2, 1)
    _, target = CocoDetection(scenes, ["dog", "cat"], Framing(64, flip=1.0), masks=True)[0]
    assert target["mask_known"].tolist() == [False, True]
    assert [int(mask.max()) for mask in target["masks"]] == [0, 1]


@pytest.mark.parametrize("counts", [[63, 4, 796], None])
def test_masks_from_rle_and_polygons(root, counts):
    segmentation = {"size": [20, 40], "counts": [63, 4, 733]} if counts else [[3, 3, 4, 3, 4, 7, 3, 7]]
    scenes = read(root, changed("annotations.0.segmentation", segmentation))
    _, target = CocoDetection(scenes, ["dog", "cat"], Framing(64), masks=True)[0]
    assert target["masks"].shape == (2, 32, 64) and target["masks"].dtype == torch.uint8
    assert target["masks"][0].sum() > 0 and set(target["masks"].unique().tolist()) == {0, 1}


def test_scene_without_objects_gives_empty_targets(root):
    _, target = CocoDetection(read(root, BASE), ["dog", "cat"], Framing(64, flip=1.0), masks=True)[1]
    assert (
        target["boxes"].shape == (0, 4)
        and target["labels"].shape == (0,)
        and target["masks"].shape == (0, 32, 64)
    )


def test_flip_moves_boxes_masks_and_pixels_together(root):
    image, target = CocoDetection(read(root, BASE), ["dog", "cat"], Framing(64, flip=1.0), masks=True)[0]
    x1, y1, x2, y2 = (int(v) for v in target["boxes"][0].round())
    inside = image[:, y1 + 2 : y2 - 2, x1 + 2 : x2 - 2]
    assert (inside == 255).all() and image.float().mean() < 80
    assert target["masks"][0, y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].all()
    assert x1 == 64 - round(12 * 1.6)


@pytest.mark.parametrize(
    "framing",
    [
        Framing(64),
        Framing(64, flip=0.5, colour=0.4),
        Framing(64, scale_jitter=(0.5, 2.0)),
        Framing(64, (32, 48, 64), 100, flip=0.5),
    ],
)
def test_items_are_a_function_of_seed_epoch_and_index(root, framing):
    dataset = CocoDetection(read(root, BASE), ["dog", "cat"], framing, masks=True, seed=5)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = [dataset[epoch, 0] for epoch in range(6)]
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    again = [dataset[epoch, 0] for epoch in reversed(range(6))][::-1]
    for (image, target), (other, twin) in zip(first, again, strict=True):
        assert torch.equal(image, other) and torch.equal(target["boxes"], twin["boxes"])
        assert len(target["boxes"]) == len(target["labels"]) == len(target["masks"])
        assert type(image) is torch.Tensor and all(
            type(target[k]) is torch.Tensor for k in ("boxes", "labels", "masks")
        )
    if framing != Framing(64):
        assert len({image.sum().item() for image, _ in first}) > 1


@pytest.mark.parametrize("stored, annotated", [((40, 20), (40, 20)), ((40, 20), (20, 40))])
def test_exif_rotation_follows_the_annotation(tmp_path, stored, annotated):
    picture = Image.new("RGB", stored)
    exif = picture.getexif()
    exif[0x0112] = 6  # rotate by 90 degrees to view
    picture.save(tmp_path / "a.jpg", exif=exif)
    width, height = annotated
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": width, "height": height}],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}],
    }
    image, _ = CocoDetection(read(tmp_path, content), ["x"], Framing(64), masks=False)[0]
    assert image.shape[1:] == framed_size((height, width), Framing(64))


def test_wrong_size_and_unreadable_image(root, tmp_path):
    scenes = read(root, changed("images.0.width", 41))
    with pytest.raises(UserError, match="a.png: the image is 40 x 20 pixels.*41 x 20"):
        CocoDetection(scenes, ["dog"], Framing(64), masks=False)[0]
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match="2 of 2 images are missing or empty"):
        read(tmp_path, BASE)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes((root / name).read_bytes()[:70])
    dataset = CocoDetection(read(tmp_path, BASE), ["dog"], Framing(64), masks=False)
    with pytest.raises(UserError, match="a.png"):
        dataset[0]
    with pytest.raises(UserError, match="[ab].png") as error:
        list(plain_errors(DataLoader(dataset, num_workers=1, collate_fn=collate)))
    assert "\n" not in str(error.value)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(-60, 60, width=32)] * 4), min_size=1, max_size=5),
    st.integers(0, 3), st.sampled_from([(1.0, 1.0), (0.4, 2.5)]),
)  # fmt: skip
def test_any_box_ends_inside_its_image(tmp_path_factory, boxes, epoch, jitter):
    root = tmp_path_factory.getbasetemp() / "any"
    root.mkdir(exist_ok=True)
    if not (root / "a.png").exists():
        for name in ("a.png", "b.png"):
            Image.new("RGB", (40, 20)).save(root / name)
    content = copy.deepcopy(BASE)
    content["annotations"] += [
        {"id": 10 + k, "image_id": 1, "category_id": 3, "bbox": list(b)} for k, b in enumerate(boxes)
    ]
    scenes = read(root, content)
    image, target = CocoDetection(
        scenes, ["dog", "cat"], Framing(64, flip=0.5, scale_jitter=jitter), masks=False
    )[epoch, 0]
    x1, y1, x2, y2 = target["boxes"].unbind(1)
    height, width = image.shape[1:]
    assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= width + 1e-3).all() and (y2 <= height + 1e-3).all()
    assert (x2 > x1).all() and (y2 > y1).all() and len(target["labels"]) == len(x1)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([Framing(64), Framing(800, (640, 800), 1333)])
)
def test_framed_size_fits(height, width, framing):
    h, w = framed_size((height, width), framing)
    assert min(h, w) >= 1 and max(h, w) <= (framing.long_side if framing.short_sides else framing.image_size)
