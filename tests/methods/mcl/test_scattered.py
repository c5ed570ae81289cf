"""Scattered tiles: where they lie, what is read there, and that finding them is learned."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers

from mcl.config.pretrain import ModelSettings, ViewSettings
from mcl.methods.level_encoder import align_windows, cut_windows
from mcl.methods.mcl.localise import RATIOS, Localiser, anchors_of, by_anchor, jitter, recall
from mcl.methods.mcl.method import Mcl
from mcl.methods.mcl.scattered import Places, draw_places, guillotine, scatter, tile_side
from mcl.methods.mcl.settings import MclSettings
from mcl.methods.montage import shuffle_from
from mcl.methods.step import update
from mcl.nn.trunk import Trunk, TrunkSpec

UNCHANGED = (0, 0, 0), (1 / 255,) * 3


def small(image_size: int = 64, **method) -> Mcl:
    torch.manual_seed(0)
    trunk = Trunk(TrunkSpec("test_resnet", 16, 2, image_size=image_size))
    return Mcl(trunk, ModelSettings(hidden=32, embedding=16), MclSettings(layout="scattered", **method), seed=0)


def batch(method: Mcl, images: int = 16) -> dict:
    return Mcl.example_batch(method.settings, ViewSettings(), method.trunk.spec.image_size, images, 0, "cpu")


@hypothesis_settings(max_examples=40, deadline=None)
@given(scale=st.sampled_from([2, 4, 8]), seed=st.integers(0, 10_000))
def test_cuts_fill_the_square_with_rectangles_of_similar_sides(scale, seed):
    boxes = guillotine(scale, 224.0, torch.Generator().manual_seed(seed))
    sides = boxes[:, 2:] - boxes[:, :2]
    assert len(boxes) == scale**2 and float(sides.prod(dim=1).sum()) == pytest.approx(224**2, rel=1e-5)
    regular = 224 / scale
    assert float(sides.max()) <= 1.4 * regular + 1e-3 and float(sides.min()) >= 0.6 * regular - 1e-3
    shared = (torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - torch.maximum(boxes[:, None, :2], boxes[None, :, :2]))
    overlaps = shared.clamp(min=0).prod(dim=2)
    assert float((overlaps - overlaps.diag().diag()).max()) < 1e-1


@pytest.mark.parametrize("scale", [2, 4])
def test_tiles_lie_in_their_boxes_over_another_image(scale):
    """Of one colour each: in the middle of a box only the tile's, outside all boxes only the background's."""
    images, size = 16, 64
    colours = 8 * torch.arange(1, images + 1, dtype=torch.uint8)
    tiles = {s: colours[:, None, None, None].expand(images, 3, t := tile_side(size, s), t) for s in (1, scale)}
    generator = torch.Generator().manual_seed(1)
    count = images // scale**2
    boxes, soft, behind = draw_places(scale, count, size, images, generator)
    shuffle = shuffle_from({scale: torch.randperm(images, generator=generator)}, images)
    canvases = scatter(tiles, shuffle, Places({scale: boxes}, {scale: soft}, {scale: behind}), *UNCHANGED)
    assert torch.equal(canvases[:images, 0, 0, 0].round(), colours.float())
    assert boxes.min() >= 0 and boxes.max() <= size
    background = 0
    for canvas, of_canvas, shown, image in zip(
        canvases[images:], boxes, shuffle.labels[scale].view(count, -1), behind, strict=True
    ):
        outside = torch.ones(size, size, dtype=torch.bool)
        for box, tile in zip(of_canvas.int().tolist(), shown, strict=True):
            left, top, right, bottom = box
            assert canvas[0, (top + bottom) // 2, (left + right) // 2].round() == colours[tile]
            outside[top:bottom, left:right] = False
        assert (canvas[0][outside].round() == colours[image]).all()
        background += int(outside.sum())
    assert background > 0


def test_soft_edges_fade_into_what_is_behind():
    tiles = {1: torch.zeros(2, 3, 64, 64, dtype=torch.uint8), 2: torch.full((2, 3, 45, 45), 200, dtype=torch.uint8)}
    places = Places(
        {2: torch.tensor([[[8.0, 8.0, 40.0, 40.0]] * 4])}, {2: torch.full((1, 4), 4.0)}, {2: torch.zeros(1, dtype=torch.long)}
    )
    shuffle = shuffle_from({2: torch.zeros(4, dtype=torch.long)}, 2)
    row = scatter(tiles, shuffle, places, *UNCHANGED)[2, 0, 24]
    assert row[7] == 0 and 0 < row[8] < row[9] < row[10] and row[24].round() == 200 and row[39] < 200


def test_aligned_windows_of_a_grid_are_the_windows_that_are_cut():
    """On a map that rises evenly, where averages of samples are the values between cells."""
    rise = torch.arange(16.0)
    maps = (rise[:, None] + 10 * rise[None])[None, None].repeat(2, 3, 1, 1)
    at = torch.arange(4.0) * 16
    boxes = torch.stack([torch.tensor([x, y, x + 16, y + 16]) for y in at for x in at]).repeat(2, 1, 1)
    aligned = align_windows(maps, boxes, 4, 64)
    inner = [row * 4 + column for row in (1, 2) for column in (1, 2)]  # at a map's border samples are clamped
    assert aligned.shape == (32, 3, 4, 4)
    torch.testing.assert_close(aligned[inner], cut_windows(maps, 4)[inner])


def test_places_are_a_function_of_step_micro_batch_view_and_seed():
    method = small()
    draw = lambda *numbers: method.draw_places(16, *numbers).boxes[4]  # noqa: E731
    assert torch.equal(draw(3, 1, 0), draw(3, 1, 0))
    for other in (draw(4, 1, 0), draw(3, 2, 0), draw(3, 1, 1)):
        assert not torch.equal(draw(3, 1, 0), other)
    assert method.draw_places(16, 0, 1).boxes[8].shape == (1, 64, 4)


@pytest.mark.parametrize("options", [{}, {"assignment": "all"}, {"localise": True}, {"target_canvases": "full"}], ids=str)
def test_everything_online_is_trained(options):
    method = small(**options).train()
    loss, numbers = method.loss(batch(method), 0)
    loss.backward()
    assert torch.isfinite(loss) and ("localise/recall" in numbers) == ("localise" in options)
    assert all(p.grad is not None for p in method.trained.parameters())


def test_the_loader_makes_tiles_large_enough_for_the_largest_place():
    specs = {spec.key: spec.size for spec in Mcl.wanted(MclSettings(layout="scattered"), ViewSettings(), 64).views}
    assert [specs[1, s] for s in (1, 2, 4, 8)] == [64, 45, 23, 12]


# Localise.


def test_anchors_and_their_order_are_torchvisions():
    localiser, maps = Localiser(16, 2).eval(), torch.randn(2, 16, 8, 8)
    made = AnchorGenerator(((16,),), (RATIOS,))(ImageList(torch.zeros(2, 3, 64, 64), [(64, 64)] * 2), [maps])
    torch.testing.assert_close(anchors_of(maps, (16,), 64), made[0])
    with torch.no_grad():
        scores, deltas = localiser.rpn["head"]([maps])
    flat_scores, flat_deltas = concat_box_prediction_layers(list(scores), list(deltas))
    torch.testing.assert_close(by_anchor(scores[0], 2, len(RATIOS)).flatten(), flat_scores.flatten())
    torch.testing.assert_close(by_anchor(deltas[0], 2, len(RATIOS)).flatten(0, 1), flat_deltas)


def test_the_proposal_head_has_the_names_that_mask_r_cnn_gives_it():
    names = [n.partition("localiser.")[2] for n in small(localise=True).state_dict() if "localiser.rpn" in n]
    assert {"rpn.head.conv.0.0.weight", "rpn.head.conv.1.0.bias", "rpn.head.cls_logits.weight", "rpn.head.bbox_pred.bias"} <= set(names)


def test_proposals_that_are_the_tiles_are_found_and_others_are_not():
    anchors = anchors_of(torch.zeros(1, 1, 8, 8), (16,), 64)
    boxes = anchors[[10, 50, 101, 150]][None]
    scores = torch.zeros(1, len(anchors))
    nothing = torch.zeros(1, len(anchors), 4)
    scores[0, [10, 50, 101, 150]] = 1
    assert recall(scores, nothing, anchors, boxes) == 1
    assert recall(1 - scores, nothing + torch.tensor([3.0, 3.0, 0, 0]), anchors, boxes) < 1


def test_jittered_boxes_overlap_theirs_and_stay_on_the_canvas():
    boxes = guillotine(4, 64.0, torch.Generator().manual_seed(0))
    moved = jitter(boxes, 64, torch.Generator().manual_seed(1))
    assert moved.min() >= 0 and moved.max() <= 64 and (moved[:, 2:] > moved[:, :2]).all()
    assert not torch.equal(moved, boxes) and (moved - boxes).abs().max() < 64 / 4


def test_finding_tiles_is_learned():
    """On tiles that differ from what is behind them: proposals find more, boxes that are off come nearer."""
    method = small(localise=True, scales=[1, 2, 4]).train()
    data = batch(method)
    for (_, scale), pixels in data["views"].items():
        pixels //= 4  # noise, dark behind and bright in tiles
        if scale > 1:
            pixels += 150
    optimizer = torch.optim.AdamW(method.trained.parameters(), 1e-2)
    rows = []
    for step in range(30):
        rows.append({n: float(v) for n, v in update(method, data, 0, optimizer, 10.0).items()})
        method.after_update(step, 30)
    first, last = rows[0], rows[-1]
    for name, share in (("objectness", 0.2), ("box", 0.8), ("refined", 0.5)):
        assert last[f"localise/{name}"] < share * first[f"localise/{name}"], (name, first, last)
    assert last["localise/recall"] > first["localise/recall"] + 0.2
    assert last["localise/overlap"] > last["localise/overlap_before"] + 0.1
    assert last["positive_cosine/p5"] > first["positive_cosine/p5"] + 0.2


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"localise": True}, "use layout=scattered"),
        ({"localise": True, "layout": "scattered", "scales": [1]}, "more scales than 1"),
        ({"layout": "scattered", "encode": "exhaustive"}, "use encode=matched"),
        ({"localise": True, "layout": "scattered", "loss": "simsiam"}, "use loss=infonce or byol"),
    ],
)
def test_what_does_not_go_together_is_refused(method, message):
    with pytest.raises(ValueError, match=message):
        MclSettings(**method)
