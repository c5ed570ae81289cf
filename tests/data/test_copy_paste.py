"""Copy-paste, on scenes made by hand."""

import numpy as np
import pytest
import torch
from PIL import Image

from mcl.data.labels.coco_json import CocoScenes, Scene, SceneObject
from mcl.data.labels.copy_paste import choose_objects, paste
from mcl.data.labels.scenes import CocoDetection, Framing


def scene(size, *objects) -> tuple[torch.Tensor, dict]:
    """Grey image and target; objects are (label, x1, y1, x2, y2), filled rectangles."""
    masks = torch.zeros(len(objects), *size, dtype=torch.uint8)
    for mask, (_, x1, y1, x2, y2) in zip(masks, objects, strict=True):
        mask[y1:y2, x1:x2] = 1
    target = {
        "boxes": torch.tensor([box for _, *box in objects], dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([label for label, *_ in objects]),
        "masks": masks,
    }
    return torch.full((3, *size), 100, dtype=torch.uint8), target


def white(size, *objects):
    image, target = scene(size, *objects)
    return image + 155, target


def test_pasted_objects_cover_what_lies_below():
    image, target = scene((40, 40), (1, 0, 0, 10, 10), (2, 20, 20, 30, 30), (3, 30, 0, 40, 10))
    other, other_target = white((40, 40), (4, 25, 18, 35, 32), (5, 0, 0, 12, 12), (6, 0, 30, 5, 35))
    mixed, joined = paste(image, target, other, other_target, torch.tensor([0, 1]))
    # 1 is covered whole and gone, 2 is cut on its right, 3 is as it was; 4 and 5 were pasted, 6 was not chosen.
    assert joined["labels"].tolist() == [2, 3, 4, 5]
    assert joined["boxes"].tolist() == [[20, 20, 25, 30], [30, 0, 40, 10], [25, 18, 35, 32], [0, 0, 12, 12]]
    assert joined["masks"][0].sum() == 50 and not (joined["masks"].sum(0) > 1).any()
    assert mixed[0, 25, 30] == 255 and mixed[0, 38, 20] == 100 and 100 < mixed[0, 25, 24] < 255  # a blended edge


def test_another_size_is_cut_or_padded():
    image, target = scene((30, 40), (1, 30, 20, 40, 30))
    other, other_target = white((50, 20), (2, 10, 25, 18, 45), (3, 2, 40, 8, 48))
    mixed, joined = paste(image, target, other, other_target, torch.tensor([0, 1]))
    assert mixed.shape == (3, 30, 40) and joined["masks"].shape[1:] == (30, 40)
    # 2 is cut at the lower edge, of 3 nothing is left.
    assert joined["labels"].tolist() == [1, 2] and joined["boxes"].tolist()[1] == [10, 25, 18, 30]


def test_an_object_that_nobody_drew_stays():
    image, target = scene((20, 20), (1, 0, 0, 10, 10))
    target["masks"][0] = 2
    _, joined = paste(image, target, *white((20, 20), (2, 5, 0, 15, 10)), torch.tensor([0]))
    assert joined["boxes"].tolist() == [[0, 0, 10, 10], [5, 0, 15, 10]] and (joined["masks"][0] == 2).all()


def test_an_image_without_objects_gets_some():
    image, target = scene((20, 20))
    other, other_target = white((20, 20), (2, 5, 5, 10, 10))
    assert paste(image, target, other, other_target, torch.tensor([0]))[1]["boxes"].tolist() == [[5, 5, 10, 10]]


def test_the_chosen_objects_are_a_random_subset():
    torch.manual_seed(0)
    sizes = [len(choose_objects(10)) for _ in range(300)]
    assert min(sizes) >= 1 and max(sizes) <= 10 and 6.2 < np.mean(sizes) < 6.8  # 10 (1 - 0.9^10) = 6.5
    assert choose_objects(1).tolist() == [0]


@pytest.fixture
def scenes(tmp_path) -> CocoScenes:
    found = []
    for i in range(4):
        path = tmp_path / f"{i}.png"
        Image.fromarray(np.full((32, 48, 3), 60 * i, np.uint8)).save(path)
        x = 4.0 + 8 * i
        outline = [[x, 6, x + 10, 6, x + 10, 20, x, 20]]
        found.append(Scene(i, path, 48, 32, (SceneObject((x, 6, x + 10, 20), 1, False, 140, outline),)))
    return CocoScenes(tmp_path / "x.json", {1: "thing"}, found)


def dataset(scenes, share, masks=True, **more) -> CocoDetection:
    return CocoDetection(scenes, ["thing"], Framing(48, copy_paste=share, **more), masks, seed=3)


def test_a_sample_is_a_function_of_its_key(scenes):
    first, again = dataset(scenes, 0.5, scale_jitter=(0.5, 1.5)), dataset(scenes, 0.5, scale_jitter=(0.5, 1.5))
    keys = [(epoch, index) for epoch in range(8) for index in range(4)]
    whole = [first[key] for key in keys]
    for key, (image, target) in reversed(list(zip(keys, whole, strict=True))):
        other_image, other = again[key]
        assert torch.equal(image, other_image) and all(torch.equal(target[k], other[k]) for k in ("boxes", "labels", "masks"))


def test_as_often_as_asked_and_never_onto_itself(scenes):
    plain, pasted = dataset(scenes, 0.0), dataset(scenes, 0.5)
    counts = []
    for epoch in range(60):
        for index in range(4):
            image, target = pasted[epoch, index]
            counts.append(len(target["labels"]))
            if counts[-1] == 1 and torch.equal(image, plain[epoch, index][0]):
                continue
            pixels = torch.unique(image[0])
            assert len(pixels) > 1  # of another scene, which has another grey
    # Pasting changes the image about half of the time; an object may hide another one.
    changed = np.mean([not torch.equal(pasted[e, i][0], plain[e, i][0]) for e in range(60) for i in range(4)])
    assert 0.4 < changed < 0.6
    # Off, nothing else moves: the pixels around are those of the same draws.
    assert torch.equal(dataset(scenes, 1e-9, colour=0.5)[0, 1][0], dataset(scenes, 0.0, colour=0.5)[0, 1][0])


def test_boxes_alone_need_masks_only_inside(scenes):
    with_masks, without = dataset(scenes, 1.0), dataset(scenes, 1.0, masks=False)
    for key in ((0, 0), (1, 2), (5, 3)):
        (image, target), (other, boxes) = with_masks[key], without[key]
        assert torch.equal(image, other) and torch.equal(target["boxes"], boxes["boxes"]) and "masks" not in boxes
    assert "masks" in target


@pytest.mark.parametrize("jitter", [(0.1, 2.0), (1.5, 2.0), (0.1, 0.4)])
def test_large_scale_jitter_keeps_boxes_and_masks_together(scenes, jitter):
    """torchvision's ScaleJitter and crop: a square of the asked size, boxes around their masks."""
    jittered = dataset(scenes, 0.0, scale_jitter=jitter)
    sides = []
    for epoch in range(20):
        image, target = jittered[epoch, 1]
        assert image.shape == (3, 48, 48) and target["masks"].shape[1:] == (48, 48)
        for (x1, y1, x2, y2), mask in zip(target["boxes"].tolist(), target["masks"], strict=True):
            rows, columns = mask.any(1).nonzero()[:, 0].tolist(), mask.any(0).nonzero()[:, 0].tolist()
            if rows:
                assert columns[0] == pytest.approx(x1, abs=1.5) and columns[-1] + 1 == pytest.approx(x2, abs=1.5)
                assert rows[0] == pytest.approx(y1, abs=1.5) and rows[-1] + 1 == pytest.approx(y2, abs=1.5)
            sides.append((x2 - x1) / 10)
    # An object of 10 px is as wide as the factors say, unless the crop cuts it.
    assert max(sides) <= jitter[1] + 0.2 and len(set(sides)) > 3
