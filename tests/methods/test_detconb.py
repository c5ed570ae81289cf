"""DetCon_B: its loss against the paper's formula and lightly's, its masks in views, its segments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lightly.loss import DetConBLoss
from PIL import Image

from images import picture
from made import PARTS, in_float64, learn, recipe
from mcl.config.pretrain import ViewSettings
from mcl.data.loading.views import Pixels, ViewMaker, ViewSpec, Wanted
from mcl.methods.detconb.loss import Regions, contrastive_detection
from mcl.methods.detconb.masks import cells_of, draw_masks, in_view
from mcl.methods.detconb.segments import MOST, SIZE, Felzenszwalb, Segments
from mcl.methods.regions import pick, uniform

SMALL = {"method.hidden": 16, "method.embedding": 8, "method.masks": 3}


def unit(v):
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def detection_loss(p, same, other, ids, other_ids, t: float) -> float:
    """Equation 3 by loops: p, same, other (N, M, E), of length 1."""
    n, m, _ = p.shape
    rows = []
    for i in range(n):
        for a in range(m):
            drawn = sum(ids[i, b] == ids[i, a] for b in range(m))
            positives = [(i, b) for b in range(m) if other_ids[i, b] == ids[i, a]]
            denominator = sum(np.exp(p[i, a] @ other[j, b] / t) for j in range(n) for b in range(m))
            denominator += sum(
                np.exp(p[i, a] @ same[j, b] / t) for j in range(n) for b in range(m) if not (j == i and ids[i, b] == ids[i, a])
            )
            logs = [-np.log(np.exp(p[i, a] @ other[j, b] / t) / denominator) for j, b in positives]
            rows.append(np.mean(logs) / drawn if logs else 0.0)
    return float(np.mean(rows))


@pytest.mark.parametrize("parts", PARTS)
def test_the_loss_is_the_paper_s(parts):
    method, batch = in_float64(recipe("detconb", parts, **SMALL))
    masks = method.draw(batch, 3)
    found = float(method.loss(batch, 3)[0].detach())
    expected = []
    for number in range(len(method.features.names)):
        p, z = {}, {}
        for view in (1, 2):
            images, weights = method.images(batch["views"][view, 1]), masks[view][1].double()
            for name, network in (("online", method.online), ("target", method.target)):
                maps = network["features"](images)[number].flatten(2)
                pooled = torch.einsum("nmc,nkc->nmk", weights, maps).flatten(0, 1)
                e = network["project"](pooled)
                e = method.predictor["predict"](e) if name == "online" else e
                (p if name == "online" else z)[view] = unit(e.detach().numpy()).reshape(6, 3, -1)
        ids = {view: masks[view][0].numpy() for view in (1, 2)}
        both = [detection_loss(p[a], z[a], z[b], ids[a], ids[b], 0.1) for a, b in ((1, 2), (2, 1))]
        expected.append(sum(both))
        theirs = DetConBLoss(0.1, gather_distributed=False)(
            *(torch.from_numpy(v) for v in (p[1], p[2], z[1], z[2], ids[1], ids[2]))
        )
        assert float(theirs) == pytest.approx(sum(both), rel=1e-6)  # theirs makes its weights in fp32
    assert found == pytest.approx(np.mean(expected), rel=1e-10)


def test_a_segment_that_the_other_view_does_not_show_counts_nothing():
    e = torch.nn.functional.normalize(torch.randn(2, 1, 4), dim=2)
    here, there = Regions(e, torch.tensor([[1], [2]])), Regions(e, torch.tensor([[1], [3]]))
    _, told = contrastive_detection(here, here, there, 0, 0.1)
    assert float(told["accuracy"]) == 1.0 and float(told["chance"]) == pytest.approx(1 / 4)
    loss, told = contrastive_detection(here, here, Regions(e, torch.tensor([[5], [3]])), 0, 0.1)
    assert float(loss) == 0.0 and float(told["accuracy"]) == 0.0


@pytest.mark.parametrize("flip", [False, True])
def test_segments_follow_the_crop_and_the_mirror_of_a_view(flip):
    across, down = (np.arange(192) + 0.5) * 256 / 192, (np.arange(128) + 0.5) * 256 / 128
    ramps = np.stack(np.broadcast_arrays(across, down[:, None], 0.0), -1).astype(np.uint8)
    maker = ViewMaker(ViewSettings(), Wanted((ViewSpec((1, 1), 64, 0),)), 0)
    seen = maker.cut(Pixels(ramps, (192, 128)), [(30, 20, 170, 110)])[0][0][0]
    seen = seen.flip(-1) if flip else seen
    crop = torch.tensor([[30 / 192, 20 / 128, 170 / 192, 110 / 128, float(flip)]])
    ramp = torch.from_numpy((np.arange(128) * 2 + 1).astype(np.uint8))
    for channel, segments in ((0, ramp.expand(1, 128, 128)), (1, ramp[:, None].expand(1, 128, 128))):
        off = (in_view(segments, crop, 64)[0] - seen[channel].int()).float()
        assert off.abs().max() < 3 and off.mean().abs() < 0.6  # a pixel of the view is 2.9 or 2.8
    segments = torch.arange(64, dtype=torch.uint8).view(1, 8, 8)
    found = in_view(segments, crop, 32)[0]
    cells = cells_of(segments, crop, 4, MOST)[0].view(4, 4)
    for row in range(4):
        for column in range(4):
            counted = np.bincount(found[8 * row : 8 * row + 8, 8 * column : 8 * column + 8].flatten().numpy(), minlength=64)
            assert counted[cells[row, column]] == counted.max()


def test_masks_are_drawn_of_what_a_view_shows_evenly_and_by_image_alone():
    cells = torch.tensor([[3, 3, 3, 7], [200, 0, 5, 5]])
    numbers, weights = draw_masks(cells, uniform(torch.tensor([4, 9]), 300, 0, 1), MOST)
    for row, shown in ((0, [3, 7]), (1, [0, 5, 200])):
        counts = torch.bincount(numbers[row], minlength=MOST)
        assert counts.nonzero().flatten().tolist() == shown and counts[shown].min() > 0.7 * 300 / len(shown)
    torch.testing.assert_close(weights.sum(2), torch.ones(2, 300))
    assert weights[0][numbers[0] == 3][0].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
    both = uniform(torch.tensor([4, 9]), 5, 0, 1)
    assert torch.equal(both[1:], uniform(torch.tensor([9]), 5, 0, 1)) and not torch.equal(both, uniform(torch.tensor([4, 9]), 5, 0, 2))
    assert pick(torch.zeros(1, 4, dtype=torch.bool), torch.full((1, 2), 0.99)).tolist() == [[3, 3]]


def test_felzenszwalb_finds_the_parts_of_a_picture_at_any_size():
    drawn = Image.new("RGB", (200, 150), "navy")
    drawn.paste("orange", (20, 30, 90, 120)), drawn.paste("white", (110, 30, 180, 120))
    maps = []
    for factor in (1, 2):
        packed = Felzenszwalb(1000.0, 1000.0, 512)(drawn.resize((200 * factor, 150 * factor)))
        maps.append(Segments({0: packed})(None, 0)["segments"].numpy())
        at = maps[-1][64, [int(x * SIZE / 200) for x in (10, 55, 100, 145)]]
        assert maps[-1].shape == (SIZE, SIZE) and len(set(at[:2])) == 2 and len({at[0], at[1], at[3]}) == 3
        assert np.sort(np.bincount(maps[-1].flatten()))[-3:].sum() > 0.85 * SIZE**2  # the rest lies along edges
    assert Segments({5: b""})(None, 5)["segments"].unique().tolist() == [0]
    assert len(np.unique(Segments({0: Felzenszwalb(1.0, 1.0, 256)(picture(1))})(None, 0)["segments"])) <= MOST


@pytest.mark.parametrize("parts", PARTS)
def test_the_loss_falls_without_a_collapse(parts):
    fall, numbers, _ = learn(recipe("detconb", parts, batch=16, **{**SMALL, "method.masks": 4}), lr=4e-3)
    assert fall > 0.3 and numbers["spread"] > 0.3 and numbers["rank"] > 3
    assert max(value for name, value in numbers.items() if name.startswith("accuracy/")) > 3 * numbers["chance"]
