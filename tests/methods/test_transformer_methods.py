"""MoCo v3, DINO and MAE: losses against plain transcriptions of the papers in float64, and what a montage changes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mcl.config.base import from_values
from mcl.config.pretrain import PretrainSettings
from mcl.engine.optim import build_optimizer, set_lr
from mcl.errors import UserError
from mcl.methods.build import build_method
from mcl.methods.mae.decoder import draw_kept, pixel_targets, places_on_canvas, to_tiles
from mcl.methods.step import example_batch, update
from mcl.randomness import generator_for
from tiny import tiny

VIT = {"model.backbone": "test_vit", "model.patch_size": 8, "image_size": 64}
RESNET = {"model.backbone": "test_resnet", "image_size": 64}
SMALL = {
    "mocov3": {"method.hidden": 16, "method.embedding": 8},
    "dino": {"method.hidden": 16, "method.bottleneck": 8, "method.prototypes": 12, "method.small": 2},
    "mae": {"method.decoder_width": 32, "method.decoder_depth": 1, "method.decoder_heads": 2},
}
CASES = [(name, network) for name in SMALL for network in (VIT, RESNET) if (name, network) != ("mae", RESNET)]


def prepared(name, network, train=True, **more):
    """A method in float64 whose target has weights of its own, and a batch."""
    settings = from_values(
        PretrainSettings, {"data": "a", "out": "b", **tiny(), **network, "method.name": name, **SMALL[name], **more}
    )
    method = build_method(settings).double().train(train)
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for key, parameter in method.named_parameters():
            if key.startswith(("target.", "predictor.")) and parameter.ndim > 1:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=g, dtype=torch.float64))
    return settings, method, example_batch(settings, "cpu")


def softmax(values: np.ndarray) -> np.ndarray:
    e = np.exp(values - values.max())
    return e / e.sum()


def rows(tensor: torch.Tensor) -> list[np.ndarray]:
    return list(tensor.detach().numpy())


@pytest.mark.parametrize("network", [VIT, RESNET], ids=["vit", "resnet"])
def test_mocov3_is_algorithm_1(network):
    _, method, batch = prepared("mocov3", network)
    found, t = float(method.loss(batch, 0)[0].detach()), method.settings.temperature
    images = {view: method.images(batch["views"][view, 1]) for view in (1, 2)}
    online, target, predict = method.online, method.target, method.predictor["predict"]
    total = 0.0
    for view, other in ((1, 2), (2, 1)):
        q = rows(predict(online["project"](online["features"](images[view])[0])))
        k = rows(target["project"](target["features"](images[other])[0]))
        q, k = ([v / np.sqrt((v * v).sum()) for v in side] for side in (q, k))
        for n, query in enumerate(q):
            logits = np.array([query @ key for key in k]) / t
            total += -math.log(softmax(logits)[n]) * 2 * t / len(q)
    assert found == pytest.approx(total, rel=1e-9)


def test_mocov3_heads_are_the_authors():
    for network, layers, ends_in_norm in ((VIT, 3, True), (RESNET, 2, False)):
        _, method, _ = prepared("mocov3", network)
        linears = [m for m in method.online["project"].modules() if isinstance(m, torch.nn.Linear)]
        assert len(linears) == layers and all(m.bias is None for m in linears)
        last = method.online["project"].layers[-1]
        assert isinstance(last, torch.nn.BatchNorm1d) and not last.affine
        assert isinstance(method.predictor["predict"].layers[-1], torch.nn.BatchNorm1d) is ends_in_norm


@pytest.mark.parametrize("network", [VIT, RESNET], ids=["vit", "resnet"])
def test_dino_is_equation_3_with_its_centre(network):
    _, method, batch = prepared("dino", network)
    with torch.no_grad():
        method.center.copy_(torch.randn(1, 12, generator=torch.Generator().manual_seed(3)))
        method.progress.fill_(0.15)
    before = method.center.clone()[0].numpy()
    found = float(method.loss(batch, 0)[0].detach())
    keys = sorted(batch["views"])

    def said(side, groups):
        outputs = {}
        for group in groups:
            images = torch.cat([method.images(batch["views"][key]) for key in group])
            vectors = side["project"](side["features"](images)[0]).detach().numpy()
            weight = side["last"].weight.detach().numpy()
            weight = weight / np.sqrt((weight**2).sum(axis=1, keepdims=True))
            vectors = vectors / np.sqrt((vectors**2).sum(axis=1, keepdims=True))
            outputs |= dict(zip([view for view, _ in group], np.split(vectors @ weight.T, len(group)), strict=True))
        return outputs

    if method.head_norm:  # norms see all crops at once
        large = [method.online["features"](torch.cat([method.images(batch["views"][k]) for k in keys[:2]]))[0]]
        small = [method.online["features"](torch.cat([method.images(batch["views"][k]) for k in keys[2:]]))[0]]
        joined = torch.cat(large + small)
        vectors = torch.nn.functional.normalize(method.online["project"](joined), dim=1).detach().numpy()
        weight = torch.nn.functional.normalize(method.online["last"].weight, dim=1).detach().numpy()
        student = dict(zip([v for v, _ in keys], np.split(vectors @ weight.T, len(keys)), strict=True))
    else:
        student = said(method.online, (keys[:2], keys[2:]))
    teacher = said(method.target, (keys[:2],))
    temperature = 0.04 + (0.07 - 0.04) * 0.15 / 0.3
    total, pairs = 0.0, 0
    for t in (1, 2):
        for s in student:
            if s != t:
                pairs += 1
                for g, p in zip(teacher[t], student[s], strict=True):
                    total += -(softmax((g - before) / temperature) * np.log(softmax(p / 0.1))).sum() / len(teacher[t])
    assert found == pytest.approx(total / pairs, rel=1e-6)  # (lightly's and the paper's temperatures are fp32 in a buffer)
    method.after_update(0, 10)
    mean = np.concatenate([teacher[1], teacher[2]]).mean(axis=0)
    np.testing.assert_allclose(method.center[0].numpy(), 0.9 * before + 0.1 * mean, rtol=1e-6)
    assert float(method.progress) == pytest.approx(0.1)


def test_dinos_last_layer_is_frozen_at_first_and_of_length_one():
    _, method, batch = prepared("dino", VIT, **{"method.freeze": 0.2})
    for done, moves in ((0.0, False), (0.3, True)):
        method.progress.fill_(done)
        method.zero_grad()
        method.loss(batch, 0)[0].backward()
        assert bool((method.online["last"].weight.grad != 0).any()) is moves
    x = torch.nn.functional.normalize(torch.randn(5, 8, dtype=torch.float64), dim=1)
    before = method.online["last"](x, torch.tensor(False))
    with torch.no_grad():
        method.online["last"].weight.mul_(7.0)
    torch.testing.assert_close(method.online["last"](x, torch.tensor(False)), before)


def test_a_tile_kept_apart_is_an_image_of_its_own():
    """Without positions, small crops read from one canvas are those read one by one, in the order of images."""
    found = {}
    for layout in ("crops", "montage"):
        more = {"method.layout": layout, "method.parts": "backbone", **({"method.small_size": 32} if layout == "crops" else {})}
        _, method, batch = prepared("dino", VIT, train=False, **more)
        method.trunk.backbone.body.pos_embed.data.zero_()
        if found:
            method.load_state_dict(found["state"])
        found["state"] = method.state_dict()
        views = {key: torch.randint(0, 256, p.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(sum(key))) for key, p in batch["views"].items()}
        found[layout] = method._small(views, 3, 0)[0]
    assert found["crops"].keys() == found["montage"].keys() == {3, 4}
    for view in (3, 4):
        torch.testing.assert_close(found["montage"][view], found["crops"][view])


@pytest.mark.parametrize("normalise", [True, False])
def test_mae_is_section_3(normalise):
    _, method, batch = prepared("mae", VIT, **{"method.normalise": normalise})
    laid = method.lay(batch, 5, 0, 1)
    found, numbers = method.loss(batch, 5)
    body, decoder = method.trunk.backbone.body, method.online["decoder"]
    with torch.no_grad():
        seen = body(laid.canvases, 1, laid.kept[1])
        predicted = decoder(seen.tokens, seen.maps[:, :, 0].transpose(1, 2), laid.kept[1]).numpy()
    errors = []
    for n, image in enumerate(laid.canvases.numpy()):
        visible = set(laid.kept[1][n].tolist())
        assert len(visible) == 16
        for cell in range(64):
            if cell in visible:
                continue
            y, x = 8 * (cell // 8), 8 * (cell % 8)
            pixels = image[:, y : y + 8, x : x + 8].transpose(1, 2, 0).reshape(-1)
            if normalise:
                pixels = (pixels - pixels.mean()) / np.sqrt(pixels.var(ddof=1) + 1e-6)
            errors.append(((predicted[n, cell] - pixels) ** 2).mean())
    assert float(found.detach()) == pytest.approx(np.mean(errors), rel=1e-9)
    assert float(numbers["loss/x1"]) == pytest.approx(np.mean(errors), rel=1e-9)


def test_cells_find_their_tiles_and_back():
    cells = torch.arange(2 * 8 * 8).view(2, 8, 8, 1)
    tiles = to_tiles(cells, 2)
    assert tiles.shape == (8, 16, 1)
    assert tiles[1, :, 0].tolist() == cells[0, :4, 4:, 0].flatten().tolist()
    places = torch.stack([torch.randperm(16)[:5] for _ in range(8)])
    on_canvas = places_on_canvas(places, 2, (8, 8))
    wanted = tiles[..., 0].gather(1, places).view(2, 20)
    torch.testing.assert_close(cells.flatten(1).gather(1, on_canvas), wanted)


def test_as_many_cells_stay_visible_as_asked_and_they_are_drawn_from_the_seed():
    kept = draw_kept(100, 64, 0.75, generator_for(1))
    assert kept.shape == (100, 16) and all(len(set(row)) == 16 for row in kept.tolist())
    assert torch.equal(kept, draw_kept(100, 64, 0.75, generator_for(1)))
    counts = torch.bincount(kept.flatten(), minlength=64)
    assert counts.min() > 8  # everywhere alike: 25 are expected
    assert draw_kept(1, 4, 0.75, generator_for(0)).shape == (1, 1) and draw_kept(1, 4, 0.1, generator_for(0)).shape == (1, 3)


def test_pixels_are_the_images():
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    found = pixel_targets(images, 8, normalise=False)
    assert found.shape == (2, 2, 2, 192)
    torch.testing.assert_close(found[1, 0, 1].view(8, 8, 3).permute(2, 0, 1), images[1, :, :8, 8:])


@pytest.mark.parametrize("attention", ["canvas", "tile"])
def test_tiles_of_a_masked_montage_see_their_neighbours_or_not(attention):
    _, method, batch = prepared("mae", VIT, train=False, **{"method.layout": "montage", "method.scales": [1, 2], "method.attention": attention})
    laid = method.lay(batch, 0, 0, 1)
    before = method._visible(laid, 2).cells.flatten(0, 1)
    laid.canvases[8, :, :32, :32] += 1.0  # the first tile of the first montage
    after = method._visible(laid, 2).cells.flatten(0, 1)
    changed = (after - before).abs().amax(dim=1) > 1e-12
    each = laid.kept[2].shape[1]
    assert changed[:each].all() and bool(changed[each : 4 * each].any()) is (attention == "canvas")
    assert not changed[4 * each :].any()


def test_mcl_beside_mae_trains_pyramid_and_head_and_sees_no_masked_patch():
    _, method, batch = prepared("mae", VIT, **{"method.layout": "montage", "method.mcl_weight": 1.0, "method.scales": [1, 2, 4]})
    assert method.trained_parts == ("backbone", "p3", "p4", "p5", "head")
    loss, numbers = method.loss(batch, 0)
    loss.backward()
    assert all(p.grad is not None for key, p in method.trained.named_parameters() if "fpn.inner_blocks.0" not in key and "fpn.layer_blocks.0" not in key)
    assert {"loss/p3", "loss/p4", "loss/p5", "loss/x1", "loss/x2", "loss/x4"} <= set(numbers)
    method.eval()
    laid = method.lay(batch, 0, 0, 1)
    before = method._filled(method._visible(laid, 1))
    for n in range(8):
        masked = sorted(set(range(64)) - set(laid.kept[1][n].tolist()))[0]
        y, x = 8 * (masked // 8), 8 * (masked % 8)
        laid.canvases[n, :, y : y + 8, x : x + 8] = 9.0
    torch.testing.assert_close(method._filled(method._visible(laid, 1)), before)


@pytest.mark.parametrize(("name", "network"), CASES)
@pytest.mark.parametrize("layout", ["plain", "montage"])
def test_some_steps_lower_the_loss_without_a_collapse(name, network, layout):
    if layout == "montage" and name == "mocov3":
        return
    more = {"method.layout": "montage"} if layout == "montage" else {}
    if name == "dino":
        more |= {"method.freeze": 0.0, "method.momentum": 0.95, "method.teacher_temperature": 0.04}
    settings, method, batch = prepared(name, network, **more)
    method, optimizer, losses = method.float(), build_optimizer(method.trained, settings.optim.model_copy(update={"name": "adamw"}), 8), []
    colours = torch.randint(0, 192, (8, 3, 1, 1), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
    batch["views"] = {key: pixels // 4 + colours for key, pixels in batch["views"].items()}  # images that can be told apart
    set_lr(optimizer, 1e-3)
    for step in range(30):
        numbers = update(method, batch, step % 2, optimizer, 3.0)
        method.after_update(step, 30)
        losses.append(float(numbers["loss"]))
    assert np.mean(losses[-5:]) < (0.98 if name == "mae" else 0.9) * np.mean(losses[:3]), losses
    assert float(numbers["spread"]) > 0.1, numbers


@pytest.mark.parametrize(
    ("name", "network", "more", "message"),
    [
        ("mae", {**RESNET}, {}, "test_resnet is no plain transformer"),
        ("mae", VIT, {"model.attention_window": 4}, "visible patches fill no windows"),
        ("mae", VIT, {"method.layout": "montage", "method.scales": [1, 2, 4, 8]}, "holds less than 2 whole patches"),
        ("mae", VIT, {"method.decoder_heads": 5}, "5 heads do not divide a decoder of width 32"),
        ("dino", {**VIT, "model.patch_size": 32}, {"method.layout": "montage", "method.scale": 4}, "do not hold whole patches of 32 px"),
        ("dino", VIT, {"method.layout": "montage", "method.small": 0}, "without small crops there are no tiles"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_one_line(name, network, more, message):
    with pytest.raises(UserError, match=message) as caught:
        prepared(name, network, **more)
    assert "\n" not in str(caught.value)
