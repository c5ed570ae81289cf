"""Plain transformers: timm's numbers, windows, tiles kept apart, the simple pyramid, and matched encoding against exhaustive."""

from __future__ import annotations

import math

import pytest
import timm
import torch

from levels import random_batch
from mcl.config.base import from_values
from mcl.config.pretrain import PretrainSettings
from mcl.errors import UserError
from mcl.methods.build import build_method
from mcl.methods.level_encoder import Encoder, Layout
from mcl.nn.backbone import build_backbone, features_of
from mcl.nn.parts import LEVELS
from mcl.nn.pyramid import SimplePyramid
from mcl.nn.trunk import Trunk, TrunkSpec, load_trunk, save_trunk
from mcl.nn.vit import VitForm, build_vit, fix_positions, global_blocks, is_plain_vit
from tiny import tiny

NAME = "test_vit"
EIGHT = VitForm(8)
SPEC = TrunkSpec(NAME, pyramid_channels=16, head_convs=2, image_size=64, patch_size=8)


def vit(form=EIGHT, size=64):
    torch.manual_seed(0)
    return build_vit(NAME, size, False, form).double().eval()


def test_which_networks_are_plain():
    assert all(map(is_plain_vit, (NAME, "vit_tiny_patch16_224", "vit_small_patch8_224.dino", "deit3_small_patch16_224", "vit_huge_patch14_224")))
    assert not any(map(is_plain_vit, ("resnet18", "swin_tiny_patch4_window7_224", "vit_tiny_r_s16_p8_224", "deit_tiny_distilled_patch16_224", "no_such")))


@pytest.mark.parametrize("name", [NAME, "vit_tiny_patch16_224", "deit3_small_patch16_224"])
def test_cells_and_class_token_are_timms(name):
    ours = build_vit(name, 64, False, VitForm()).eval()
    theirs = timm.create_model(name, num_classes=0, img_size=64).eval()
    state = ours.state_dict()
    assert set(theirs.state_dict()) - set(state) <= {"norm.weight", "norm.bias", "fc_norm.weight", "fc_norm.bias"}
    theirs.load_state_dict(state, strict=False)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        seen = ours(images)
        maps, tokens = theirs.forward_intermediates(images, indices=1, return_prefix_tokens=True, intermediates_only=True)[0]
    torch.testing.assert_close(seen.maps, maps)
    torch.testing.assert_close(seen.tokens, tokens)


def test_positions_are_interpolated_to_the_canvas_as_timm_does():
    ours = build_vit(NAME, 64, False, VitForm(8)).eval()
    theirs = timm.create_model(NAME, num_classes=0, img_size=64, patch_size=8, dynamic_img_size=True).eval()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    images = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        found = ours(images).maps
        wanted = theirs.forward_intermediates(images, indices=1, intermediates_only=True)[0]
    assert found.shape == (1, 64, 12, 16)
    torch.testing.assert_close(found, wanted)


def test_one_window_is_global_attention_and_more_are_not():
    whole, images = vit(), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        wanted = whole(images)
        for window, same in ((8, True), (4, False)):
            windowed = vit(VitForm(8, window, (5,)))
            windowed.load_state_dict(whole.state_dict())
            found = windowed(images)
            assert torch.allclose(found.maps, wanted.maps) is same and torch.allclose(found.tokens, wanted.tokens) is same


def test_windows_see_only_themselves():
    windowed = vit(VitForm(8, 4, (0,)))
    windowed.blocks_global = (False,) * len(windowed.blocks)
    windowed.cls_token = None  # it would carry what it saw from window to window
    windowed.no_embed_class = True
    windowed.pos_embed = torch.nn.Parameter(windowed.pos_embed[:, 1:])
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    windowed(images).maps[0, :, 5, 1].sum().backward()  # a cell of the window below on the left
    seen = images.grad[0].abs().sum(0) > 0
    assert seen[32:, :32].all() and not seen[:32].any() and not seen[:, 32:].any()


def test_cells_that_fill_no_whole_window_are_padded_as_in_vitdet():
    windowed = vit(VitForm(8, 3, (0,)))
    x, block = torch.randn(1, 1 + 64, 64, dtype=torch.float64), windowed.blocks[1]
    with torch.no_grad():
        found = block(x, (8, 8), 3)[0, 1:].view(8, 8, 64)
        normed = block.norm1(x)
        corner = torch.zeros(9, 64, dtype=torch.float64).view(3, 3, 64)
        corner[:2, :2] = normed[0, 1:].view(8, 8, 64)[6:, 6:]
        row = torch.cat([normed[:, 0], corner.flatten(0, 1)])[None]
        wanted = x[0, 1:].view(8, 8, 64)[6:, 6:] + block.attn(row)[0, 1:].view(3, 3, 64)[:2, :2]
        wanted = wanted + block.mlp(block.norm2(wanted))
    torch.testing.assert_close(found[6:, 6:], wanted)


@pytest.mark.parametrize("form, wanted", [(VitForm(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]), (VitForm(0, 7), [2, 5, 8, 11]), (VitForm(0, 7, (0, 11)), [0, 11])])
def test_global_blocks(form, wanted):
    assert [i for i, is_global in enumerate(global_blocks(form, 12)) if is_global] == wanted
    with pytest.raises(UserError, match="no block 12"):
        global_blocks(VitForm(0, 7, (12,)), 12)


@pytest.mark.parametrize("tiles", [1, 2, 4, 8])
def test_tiles_kept_apart_see_nothing_of_each_other(tiles):
    network, images = vit(), torch.randn(1, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    seen, side = network(images, tiles), 64 // tiles
    assert seen.maps.shape == (1, 64, 8, 8) and seen.tokens.shape == (tiles**2, 1, 64)
    row, column = tiles - 1, tiles // 2
    cell = (seen.maps[0, :, row * 8 // tiles, column * 8 // tiles] + seen.tokens[row * tiles + column, 0]).sum()
    (gradient,) = torch.autograd.grad(cell, images)
    own = torch.zeros(64, 64, dtype=torch.bool)
    own[row * side : (row + 1) * side, column * side : (column + 1) * side] = True
    assert torch.equal(gradient[0].abs().sum(0) > 0, own)


def test_kept_cells_are_what_a_masked_network_sees():
    """With all cells kept in another order the same cells come out, in that order; with some, the others do not matter."""
    network, images = vit(), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    order = torch.stack([torch.randperm(64) for _ in range(2)])
    with torch.no_grad():
        whole = network(images).maps.flatten(2)
        kept = network(images, kept=order).maps[:, :, 0]
        torch.testing.assert_close(kept, whole.gather(2, order[:, None].expand(-1, 64, -1)))
        some = network(images, kept=order[:, :10]).maps
        other = images.clone()
        for image, places in enumerate(order[:, 10:]):
            for place in places.tolist():
                y, x = 8 * (place // 8), 8 * (place % 8)
                other[image, :, y : y + 8, x : x + 8] = 5.0
        torch.testing.assert_close(network(other, kept=order[:, :10]).maps, some)
        corner = torch.tensor([[0], [0], [0], [0]]), torch.tensor([[15], [15], [15], [15]])
        tiles = torch.cat([network(images[:1], 2, kept=places).maps for places in corner], dim=3)
        assert tiles.shape == (4, 64, 1, 2)


def test_sincos_positions_are_the_papers():
    """MAE, appendix: for a position p and D / 4 frequencies 1 / 10000^(i / (D / 4)): sin(p w), cos(p w) of each axis."""
    network = vit()
    fix_positions(network)
    assert not network.pos_embed.requires_grad and (network.pos_embed[0, 0] == 0).all()
    wanted = torch.zeros(8, 8, 64, dtype=torch.float64)
    for row in range(8):
        for column in range(8):
            of_axes = []
            for place in (row, column):
                angles = [place / 10000 ** (i / 16) for i in range(16)]
                of_axes.append(([math.sin(a) for a in angles], [math.cos(a) for a in angles]))
            wanted[row, column] = torch.tensor([*of_axes[0][0], *of_axes[1][0], *of_axes[0][1], *of_axes[1][1]])
    torch.testing.assert_close(network.positions((8, 8)), wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("stride", [4, 8, 16, 32])
@pytest.mark.parametrize("levels", [LEVELS, LEVELS[1:]])
def test_the_simple_pyramid_has_its_strides_and_the_names_of_a_pyramid(stride, levels):
    pyramid = SimplePyramid(32, stride, 16, levels).double()
    features, numbers = torch.randn(3, 32, 128 // stride, 128 // stride, dtype=torch.float64), [LEVELS.index(name) for name in levels]
    whole = pyramid({"p5": features})
    assert {name: level.shape for name, level in whole.items()} == {
        LEVELS[n]: (3, 16, 32 >> n, 32 >> n) for n in numbers
    }
    state = list(pyramid.state_dict())
    assert all(name.startswith(("inner_blocks.", "layer_blocks.")) for name in state)
    assert {int(name.split(".")[1]) for name in state} == set(numbers)
    computed = []
    for block in (list(pyramid.layer_blocks.values()) if len(levels) < 4 else pyramid.layer_blocks):
        block.register_forward_hook(lambda *_: computed.append(1))
    found = pyramid.levels([features], {3: slice(0, 2), numbers[0]: slice(2, 3)})
    assert len(computed) == 2  # nothing but what is asked for
    torch.testing.assert_close(found[3], whole["p5"][:2])
    torch.testing.assert_close(found[numbers[0]], whole[LEVELS[numbers[0]]][2:])


@pytest.mark.parametrize("spec, apart", [(SPEC, False), (SPEC, True), (TrunkSpec(NAME, 16, 2, 64, patch_size=8, attention_window=2), False)], ids=["vit", "tiles", "windows"])
@pytest.mark.parametrize("scales", [(1,), (1, 2, 4), (1, 2, 4, 8)])
def test_matched_encoding_equals_exhaustive_in_training_mode(spec, apart, scales):
    """No BatchNorm up to the head's cells, so statistics cannot tell them apart; the projector is in eval mode."""
    torch.manual_seed(0)
    encoder = Encoder(Trunk(spec), 32, 16, apart=apart).double().train()
    encoder.projector.eval()
    assert not [m for m in encoder.trunk.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    layout = Layout(scales, (3, 2, 2, 1)[: len(scales)])
    canvases = torch.randn(sum(layout.counts), 3, 64, 64, dtype=torch.float64)
    matched = encoder.encode_matched(canvases, layout, scales)
    exhaustive = encoder.encode_exhaustive(canvases, layout)
    for scale in scales:
        own = layout.slice_of(scale)
        expected = exhaustive[scale][own.start * scale**2 : own.stop * scale**2]
        torch.testing.assert_close(matched[scale], expected)
    ours = torch.autograd.grad(sum(e.square().sum() for e in matched.values()), encoder.trunk.backbone.body.blocks[0].attn.qkv.weight)[0]
    theirs = torch.autograd.grad(
        sum(exhaustive[s][layout.slice_of(s).start * s**2 : layout.slice_of(s).stop * s**2].square().sum() for s in scales),
        encoder.trunk.backbone.body.blocks[0].attn.qkv.weight,
    )[0]
    torch.testing.assert_close(ours, theirs)


def recipe(**more):
    return from_values(PretrainSettings, {"data": "a", "out": "b", **tiny(**{"model.backbone": NAME, "model.patch_size": 8, "image_size": 64}), **more})


@pytest.mark.parametrize(
    "more, message",
    [
        ({"model.backbone": "test_resnet"}, "it is no plain transformer, so it has no patch_size"),
        ({"model.backbone": "test_resnet", "model.patch_size": None, "model.positions": "sincos"}, "--model.positions sincos"),
        ({"model.backbone": "test_resnet", "model.patch_size": None, "method.attention": "tile"}, "--method.attention tile: test_resnet"),
        ({"method.attention": "tile", "model.patch_size": 16}, "do not hold whole patches of 16 px"),
        ({"model.backbone": "vit_huge_patch14_224", "model.patch_size": 28}, r"a pyramid needs one of \[4, 8, 16, 32\]"),
        ({"model.patch_size": 32, "image_size": 96, "method.layout": "batch"}, "cannot take images of 48 px"),
        ({"model.attention_window": 2, "model.global_blocks": [9]}, "no block 9"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_one_line(more, message):
    with pytest.raises(UserError, match=message) as caught:
        build_method(recipe(**more))
    assert "\n" not in str(caught.value)


def test_what_is_fixed_stays_and_the_rest_learns():
    method = build_method(recipe(**{"model.positions": "sincos", "model.patch_projection": "frozen", "model.drop_path": 0.2})).train()
    loss, _ = method.loss(random_batch(4, (1, 2, 4, 8), torch.Generator().manual_seed(0)), 0)
    loss.backward()
    without = {name for name, p in method.trained.named_parameters() if p.grad is None}
    body = "encoder.trunk.backbone.body."
    assert without == {body + "pos_embed", body + "patch_embed.proj.weight", body + "patch_embed.proj.bias"}
    drops = [m.drop_prob for m in method.trunk.modules() if type(m).__name__ == "DropPath"]
    assert drops and max(drops) == pytest.approx(0.2)
    assert {m.drop_prob for m in method.target.modules() if type(m).__name__ == "DropPath"} == {0.0}


@pytest.mark.parametrize("attention", ["canvas", "tile"])
def test_attention_of_a_montage_changes_what_its_tiles_see(attention):
    method = build_method(recipe(**{"method.attention": attention})).double().eval()
    own = method.draw_micro_batch(random_batch(4, (1, 2, 4, 8), torch.Generator().manual_seed(0)), 0, 0)
    before = method.read_online(own, 1).maps[2]
    own.canvases[1][4:5, :, :32, :32] += 1.0  # the first tile of the first montage of scale 2
    change = (method.read_online(own, 1).maps[2] - before).abs().amax(dim=(0, 1)) > 1e-12
    half = change.shape[-1] // 2
    assert change[:half, :half].any()
    # (The pyramid's 3x3 convolution looks one cell over the border in either case.)
    assert bool(change[half + 1 :, half + 1 :].any()) is (attention == "canvas")


def test_trunk_files_tell_how_attention_was(tmp_path):
    spec = TrunkSpec(NAME, 16, 1, 64, patch_size=8, attention_window=4, global_blocks=(5,))
    trunk = Trunk(spec).eval()
    save_trunk(tmp_path / "trunk.safetensors", trunk, {})
    read, images = load_trunk(tmp_path), torch.randn(1, 3, 64, 64)
    assert read.spec == spec
    torch.testing.assert_close(read(images)["p2"], trunk(images)["p2"])
    assert "patch_size" not in TrunkSpec("resnet18").described()


def test_drop_path_reaches_every_family():
    for name in ("swin_tiny_patch4_window7_224", "convnext_atto", NAME):
        body = build_backbone(name, 64, drop_path=0.1)
        assert any(getattr(m, "drop_prob", 0) for m in body.modules()), name
        assert features_of(body, torch.zeros(1, 3, 64, 64))[-1].dim() == 4
