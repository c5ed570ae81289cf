"""Regions as boxes to find: where views show them, which anchors and windows stand for them, and that it is learned."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torchvision.ops import box_iou, roi_align
from torchvision.ops.poolers import initLevelMapper

from levels import random_batch, random_regions
from mcl.config.pretrain import ModelSettings
from mcl.detect.rcnn.faster_rcnn import size_plan
from mcl.detect.rcnn.settings import FasterRcnnSettings
from mcl.methods.mcl.method import Mcl
from mcl.methods.mcl.regions import (
    RegionHead,
    Regions,
    anchor_sides,
    boxes_anywhere,
    match,
    overlap,
    regions_in_view,
    windows_of,
)
from mcl.methods.mcl.settings import MclSettings
from mcl.nn.pyramid import LEVELS
from mcl.nn.trunk import Trunk, TrunkSpec

SPEC = TrunkSpec("test_resnet", 16, 2, image_size=64)


def test_a_view_shows_regions_where_its_crop_puts_them():
    boxes = torch.tensor([[[0.5, 0.25, 0.75, 0.5], [0.0, 0.0, 0.5, 0.4], [0.5, 0.5, 0.51, 0.9]]]).repeat(2, 1, 1)
    crops = torch.tensor([[0.25, 0.0, 0.75, 1.0, 0.0], [0.25, 0.0, 0.75, 1.0, 1.0]])
    found, there = regions_in_view(boxes, torch.tensor([3, 1]), crops, 64)
    assert found[0, 0].tolist() == [32, 16, 64, 32] and found[1, 0].tolist() == [0, 16, 32, 32]  # mirrored
    assert found[0, 1].tolist() == pytest.approx([0, 0, 32, 25.6])  # half of it is cut off, just enough is shown
    # The third is less than 4 pixels wide; of the second image there is one region only.
    assert there.tolist() == [[True, True, False], [True, False, False]]
    assert not regions_in_view(boxes + torch.tensor([0.2, 0, 0.2, 0]), torch.tensor([3, 1]), crops, 64)[1][0, 0]


def test_absent_regions_are_matched_with_nothing():
    boxes = torch.tensor([[[0.0, 0, 16, 16], [40.0, 40, 60, 60]]])
    anchors = torch.tensor([[[0.0, 0, 16, 16], [0.0, 0, 16, 11], [40.0, 40, 60, 60], [41.0, 41, 50, 50]]])
    both = Regions(slice(None), boxes, torch.tensor([[True, True]]), anchors)
    one = Regions(slice(None), boxes, torch.tensor([[True, False]]), anchors)
    best, which, stands = match(both, anchors)
    assert which.tolist() == [[0, 0, 1, 1]] and stands.tolist() == [[True, False, True, False]]
    torch.testing.assert_close(best[0], box_iou(anchors[0], boxes[0]).amax(dim=1))
    assert match(one, anchors)[2].tolist() == [[True, False, False, False]]
    assert overlap(anchors, one)[0, :, 1].tolist() == [-1] * 4
    none = Regions(slice(None), boxes, torch.tensor([[False, False]]), anchors)
    assert not match(none, anchors)[2].any()


def test_the_best_anchor_stands_for_a_region_that_none_fits():
    regions = Regions(slice(None), torch.tensor([[[10.0, 10, 20, 20]]]), torch.tensor([[True]]), torch.zeros(1, 2, 4))
    anchors = torch.tensor([[[0.0, 0, 64, 64], [5.0, 5, 30, 30], [50.0, 50, 60, 60]]])
    assert match(regions, anchors)[2].tolist() == [[False, True, False]]


@pytest.mark.parametrize("finer", [0, 1])
def test_windows_come_from_the_levels_that_detectors_take(finer):
    """A detector with such a trunk, by its size plan."""
    torch.manual_seed(0)
    spec = TrunkSpec("test_resnet", 16, 2, image_size=64, finer=finer)
    maps = OrderedDict((name, torch.randn(2, 16, 16 >> i, 16 >> i)) for i, name in enumerate(LEVELS))
    boxes = boxes_anywhere((2, 9), 64, torch.Generator().manual_seed(1))
    boxes[0, 0], boxes[0, 1] = torch.tensor([0.0, 0, 64, 64]), torch.tensor([0.0, 0, 32, 32])
    scale = size_plan(spec, FasterRcnnSettings(), 64)["roi_scale"]
    level = initLevelMapper(2, 5, canonical_scale=scale, canonical_level=4)(list(boxes))
    flat = torch.cat([torch.cat([torch.full((9, 1), float(i)), boxes[i]], dim=1) for i in range(2)])
    ours = windows_of(maps, boxes, spec)
    for i, name in enumerate(LEVELS):
        own = level == i
        by_hand = roi_align(maps[name], flat[own], spec.window, 1 / 4 / 2**i, sampling_ratio=2, aligned=True)
        torch.testing.assert_close(ours[own], by_hand)


@pytest.mark.parametrize("image_size", [64, 128, 500])
def test_anchors_are_those_of_detectors(image_size):
    anchors = size_plan(SPEC, FasterRcnnSettings(), image_size)["anchors"]
    for level in range(4):
        assert anchor_sides(level, image_size) == pytest.approx(anchors[level])


def test_regions_are_learned():
    """On pictures of one bright square each: its box is found, and what is near it told from what is not."""
    torch.manual_seed(0)
    trunk, generator = Trunk(SPEC), torch.Generator().manual_seed(0)
    head = RegionHead(trunk)
    corner = torch.randint(0, 32, (8, 1, 2), generator=generator).float()
    boxes = torch.cat([corner, corner + 24], dim=-1)
    pictures = torch.zeros(8, 3, 64, 64)
    for picture, box in zip(pictures, boxes[:, 0].int().tolist(), strict=True):
        picture[:, box[1] : box[3], box[0] : box[2]] = 2
    near = boxes + 3 * torch.rand(boxes.shape, generator=generator)
    judged = torch.cat([near, boxes_anywhere((8, 1), 64, generator)], dim=1)
    regions = Regions(slice(None), boxes, torch.ones(8, 1, dtype=torch.bool), judged)
    optimizer = torch.optim.AdamW([*trunk.parameters(), *head.parameters()], lr=3e-3)
    told = []
    for _ in range(25):
        loss, numbers = head(trunk, trunk(pictures), regions)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        told.append({name: float(value) for name, value in numbers.items()})
    assert told[-1]["regions/objectness"] < 0.3 * told[0]["regions/objectness"]
    assert told[-1]["regions/refined"] < 0.5 * told[0]["regions/refined"]
    assert told[-1]["regions/object_accuracy"] > 0.9


def test_a_step_looks_at_every_image_of_both_views_in_turn_and_trains_the_whole_trunk():
    torch.manual_seed(0)
    settings = MclSettings(scales=[1], regions_weight=1.0, regions=3)
    method = Mcl(Trunk(SPEC), ModelSettings(hidden=32, embedding=16), settings, seed=0).train()
    generator = torch.Generator().manual_seed(0)
    batch = {**random_batch(6, (1,), generator), "fields": random_regions(6, generator)}
    seen = [(view, found.images.start) for step in range(4) for view, found in method.draw_regions(batch, step, 0).items()]
    assert sorted(seen) == [(1, 0), (1, 1), (2, 0), (2, 1)]
    first, again = (method.draw_regions(batch, 5, 0)[2].judged for _ in range(2))
    assert torch.equal(first, again) and not torch.equal(first, method.draw_regions(batch, 9, 0)[2].judged)
    loss, numbers = method.loss(batch, 0)
    loss.backward()
    assert "regions/objectness" in numbers and method.trained_parts == ("backbone", *LEVELS, "head")
    assert [name for name, p in method.trained.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    "given", [{"layout": "batch"}, {"loss": "simsiam"}, {"encode": "exhaustive"}, {"labels": True}], ids=str
)
def test_what_does_not_go_together_is_refused(given):
    with pytest.raises(ValueError, match="regions_weight"):
        MclSettings(regions_weight=1.0, **given)
