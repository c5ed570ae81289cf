"""SoCo: its loss, its objects in three views, levels and RoIAlign as torchvision's detectors, its proposals."""

from __future__ import annotations

from collections import OrderedDict

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import MultiScaleRoIAlign

from images import picture
from made import PARTS, in_float64, learn, recipe
from mcl.errors import UserError
from mcl.methods import proposals
from mcl.methods.proposals import MOST, Proposals, SelectiveSearch
from mcl.methods.soco.boxes import choose, in_view, jitter

SMALL = {"method.hidden": 16, "method.embedding": 8, "method.objects": 3}
SEARCH = SelectiveSearch(300, (0.3, 0.8), 3.0, 256)


def unit(v):
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


@pytest.mark.parametrize("parts", PARTS)
def test_the_loss_is_the_paper_s(parts):
    method, batch = in_float64(recipe("soco", parts, **SMALL))
    boxes = method.draw(batch, 3)
    v, z = {}, {}
    for view in (1, 2, 3):
        images = method.images(batch["views"][view, 1])
        v[view] = method.predictor["predict"](method.online["project"](method.online["features"](images, boxes[view])))
        z[view] = method.target["project"](method.target["features"](images, boxes[view]))
    v, z = ({view: unit(e.detach().numpy()) for view, e in side.items()} for side in (v, z))
    pairs = {(1, 2), (1, 3), (2, 1), (3, 1)}  # equation 4: view 1 online; equation 5: view 1 as the target
    expected = sum(np.mean([-2 * a @ b for a, b in zip(v[p], z[t], strict=True)]) for p, t in pairs)
    found = float(method.loss(batch, 3)[0].detach())
    assert found - 2 * len(pairs) == pytest.approx(expected, rel=1e-10)


def test_windows_are_those_of_a_detector():
    method, batch = in_float64(recipe("soco", "backbone+pyramid+head", image_size=224, batch=2, **SMALL))
    features = method.features
    boxes = torch.tensor([[[0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 1.0, 1.0]], [[0.3, 0.1, 0.6, 0.5], [0.2, 0.2, 0.9, 0.9]]])
    assert features.level_of(boxes, 224).tolist() == [[0, 3], [1, 2]]  # 45, 224, 78, 157 pixels
    assert features.level_of(boxes, 112).tolist() == [[0, 2], [0, 1]]
    for key in ((1, 1), (3, 1)):
        images = method.images(batch["views"][key])
        side = images.shape[-1]
        levels = OrderedDict(features.trunk(images))
        # 192 px is where P5 begins: canonical level 5.
        pooler = MultiScaleRoIAlign(list(levels), 7, 2, canonical_scale=192, canonical_level=5)
        aligned = lambda x, rois, *args, **kw: torch.ops.torchvision.roi_align(x, rois, kw["spatial_scale"], 7, 7, 2, True)  # noqa: E731
        with pytest.MonkeyPatch.context() as patched:  # torchvision's detectors are not "aligned", Detectron2's and SoCo are
            patched.setattr("torchvision.ops.poolers.roi_align", aligned)
            theirs = pooler(levels, list(boxes.double() * side), [(side, side)] * 2)
        theirs = features.trunk.roi_heads.box_head(theirs).mean(dim=(2, 3))
        torch.testing.assert_close(features(images, boxes), theirs, rtol=1e-9, atol=1e-12)


def test_objects_are_where_the_views_show_them():
    crop = torch.tensor([[0.2, 0.1, 0.7, 0.9, 0.0], [0.2, 0.1, 0.7, 0.9, 1.0]])
    box = torch.tensor([0.3, 0.3, 0.45, 0.5]).expand(2, 1, 4)
    found = in_view(box, crop)
    torch.testing.assert_close(found[0, 0], torch.tensor([0.2, 0.25, 0.5, 0.5]))
    torch.testing.assert_close(found[1, 0], torch.tensor([0.5, 0.25, 0.8, 0.5]))
    outside = in_view(torch.tensor([0.6, 0.8, 1.0, 1.0]).expand(2, 1, 4), crop)
    torch.testing.assert_close(outside[0, 0], torch.tensor([0.8, 0.875, 1.0, 1.0]))
    assert in_view(torch.tensor([0.8, 0.1, 1.0, 0.5]).expand(2, 1, 4), crop)[0, 0].tolist() == [0, 0, 1, 1]


def test_objects_are_drawn_of_those_that_all_crops_show():
    boxes = torch.tensor([[[0.0, 0.0, 0.4, 0.4], [0.3, 0.3, 0.7, 0.7], [0.6, 0.6, 1.0, 1.0], [0.4, 0.4, 0.6, 0.6]]])
    crops = [torch.tensor([[0.0, 0.0, 0.6, 0.6, 0.0]]), torch.tensor([[0.3, 0.3, 1.0, 1.0, 1.0]])]
    chances = torch.linspace(0, 0.999, 50)[None]
    drawn = choose(boxes, torch.tensor([3]), crops, chances)
    assert drawn.shape == (1, 50, 4) and (drawn == boxes[:, 1:2]).all()
    both = choose(boxes, torch.tensor([4]), crops, chances)
    assert (both == boxes[:, 1:2]).all(-1).sum() == (both == boxes[:, 3:]).all(-1).sum() == 25
    for some in (choose(boxes, torch.tensor([1]), crops, chances), choose(boxes, torch.tensor([0]), crops, chances)):
        torch.testing.assert_close(some, torch.tensor([0.3, 0.3, 0.6, 0.6]).expand(1, 50, 4))


def test_jitter_moves_and_scales_within_its_ratio():
    boxes = torch.tensor([[0.2, 0.2, 0.6, 0.4]]).expand(200, 1, 4)
    chances = torch.rand(200, 1, 5, generator=torch.Generator().manual_seed(0))
    found = jitter(boxes, chances, 0.5, 0.1)
    moved = (found != boxes).any(dim=-1)[:, 0]
    assert torch.equal(moved, chances[:, 0, 0] < 0.5) and 70 < int(moved.sum()) < 130
    size = found[..., 2:] - found[..., :2]
    assert 0.036 < (found[..., 0] - 0.2).abs().max() <= 0.0401 and 0.018 < (found[..., 1] - 0.2).abs().max() <= 0.0201
    assert 0.036 < (size[..., 0] - 0.4).abs().max() <= 0.0401 and 0.018 < (size[..., 1] - 0.2).abs().max() <= 0.0201


def test_an_image_s_objects_do_not_hang_on_the_batch_it_is_in():
    method, batch = in_float64(recipe("soco", "backbone", **SMALL))
    whole = method.draw(batch, 3)
    part = {key: {name: value[2:4] for name, value in batch[key].items()} for key in ("crops", "fields")}
    of_two = method.draw({**part, "index": batch["index"][2:4]}, 3)
    assert all(torch.equal(of_two[view], whole[view][2:4]) for view in (1, 2, 3))
    assert not torch.equal(method.draw(batch, 4)[1], whole[1])


def test_selective_search_finds_objects_and_keeps_those_of_the_right_size():
    drawn = Image.new("RGB", (240, 160), "seagreen")
    drawn.paste("orange", (30, 40, 110, 130)), drawn.paste("navy", (140, 30, 210, 120)), drawn.paste("white", (5, 5, 15, 15))
    found = Proposals({0: SEARCH(drawn)})(None, 0)
    boxes = found["boxes"][: found["count"]] * torch.tensor([240, 160, 240, 160])
    for wanted in ((30, 40, 110, 130), (140, 30, 210, 120)):
        assert (boxes - torch.tensor(wanted, dtype=torch.float)).abs().amax(dim=1).min() <= 6
    sides = boxes[:, 2:] - boxes[:, :2]
    size = (sides.prod(dim=1) / (240 * 160)).sqrt()
    assert size.min() > 0.29 and size.max() < 0.81 and (sides.amax(1) / sides.amin(1)).max() < 3.1
    assert SEARCH(drawn) == SEARCH(drawn)  # OpenCV's own ranking is by chance
    for odd in (Image.new("RGB", (1, 1)), Image.new("RGB", (256, 2)), Image.new("RGB", (40, 40), "red")):
        assert Proposals({0: SEARCH(odd)})(None, 0)["boxes"].shape == (MOST, 4)
    assert Proposals({0: b""})(None, 0)["count"] == 0
    many = np.random.default_rng(0).integers(20, 100, (500, 4))
    kept = SEARCH.kept(many, 200, 200)
    assert len(kept) == MOST and len(np.unique(kept, axis=0)) == MOST
    assert 0 < Proposals({0: SEARCH(picture(3, 300, 200))})(None, 0)["count"] <= MOST


def test_an_opencv_without_selective_search_is_said(monkeypatch):
    monkeypatch.delattr(cv2, "ximgproc")
    with pytest.raises(UserError, match="pip install opencv-contrib-python-headless"):
        proposals.require_selective_search("--method.name soco")


@pytest.mark.parametrize("parts", PARTS)
def test_the_loss_falls_without_a_collapse(parts):
    fall, numbers, step = learn(recipe("soco", parts, batch=16, **SMALL), steps=12)
    assert fall > 0.3 and numbers["spread"] > 0.1 and numbers["rank"] > 2
    if parts != "backbone":
        assert sum(numbers[f"objects/p{level}"] for level in range(2, 6)) == pytest.approx(1) and numbers["objects/p2"] > 0
