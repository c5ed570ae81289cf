"""The trunk's names, its files, and matched encoding against exhaustive on all scales and families."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import save_file

from mcl.errors import UserError
from mcl.methods.level_encoder import Encoder, Layout, cut_windows
from mcl.nn.backbone import build_backbone, features_of
from mcl.nn.parts import PIECES
from mcl.nn.trunk import Trunk, TrunkSpec, load_trunk, read_trunk, save_trunk

SMALL = TrunkSpec("test_resnet", pyramid_channels=16, head_convs=2, image_size=64)


def test_names_are_torchvisions():
    ours = Trunk(TrunkSpec("resnet50")).state_dict()
    theirs = torchvision.models.detection.maskrcnn_resnet50_fpn_v2(
        weights=None, weights_backbone=None
    ).state_dict()
    assert {name for name in ours if name not in theirs} == set()
    assert all(theirs[name].shape == tensor.shape for name, tensor in ours.items())
    wanted = (
        "backbone.",
        "roi_heads.box_head.0",
        "roi_heads.box_head.1",
        "roi_heads.box_head.2",
        "roi_heads.box_head.3",
    )
    assert {name for name in theirs if name.startswith(wanted)} == set(ours)


@pytest.mark.parametrize(
    ("scales", "finer"), [((1,), 0), ((1, 2), 0), ((1, 2, 4), 0), ((1, 2, 4, 8), 0), ((1, 2, 4), 1), ((1,), 2)]
)
def test_matched_encoding_equals_exhaustive_with_norms_in_eval_mode(scales, finer):
    torch.manual_seed(0)
    spec = replace(SMALL, finer=finer)
    encoder = Encoder(Trunk(spec), 32, 16).double().eval()
    assert spec.window == 2 * 2**finer and spec.level_of(1) == 3 - finer
    layout = Layout(scales, (3, 2, 2, 1)[: len(scales)])
    canvases = torch.randn(sum(layout.counts), 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        matched = encoder.encode_matched(canvases, layout, scales)
        exhaustive = encoder.encode_exhaustive(canvases, layout)
        top = encoder.encode_top(canvases)
    assert set(matched) == set(scales)
    for scale in scales:
        own = layout.slice_of(scale)
        expected = exhaustive[scale][own.start * scale**2 : own.stop * scale**2]
        torch.testing.assert_close(matched[scale], expected)
    torch.testing.assert_close(top, exhaustive[1])


def test_windows_are_cut_row_by_row():
    pyramid_map = torch.arange(2 * 3 * 8 * 8).view(2, 3, 8, 8)
    windows = cut_windows(pyramid_map, 4)
    assert windows.shape == (8, 3, 4, 4)
    assert torch.equal(windows[1], pyramid_map[0, :, :4, 4:])
    assert torch.equal(windows[6], pyramid_map[1, :, 4:, :4])


NOT_PLAIN = "vit_tiny_r_s16_p8_224"


@pytest.mark.parametrize("name", ["test_resnet", "convnext_atto", "mobilenetv3_small_050", NOT_PLAIN])
def test_any_backbone_with_four_strides(name):
    if name == NOT_PLAIN:
        with pytest.raises(UserError, match=NOT_PLAIN):
            build_backbone(name, 64)
        return
    body = build_backbone(name, 64)
    shapes = [feature.shape[-1] for feature in features_of(body, torch.zeros(1, 3, 64, 64))]
    assert shapes == [16, 8, 4, 2]


def test_unknown_backbone_is_named_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'resnet18'"):
        build_backbone("resnet18x", 64)


def test_file_gives_back_the_trunk(tmp_path):
    trunk = Trunk(SMALL).eval()
    save_trunk(tmp_path / "trunk.safetensors", trunk, {"recipe": "x", "steps": 3})
    spec, _, metadata = read_trunk(tmp_path)
    assert spec == SMALL and metadata["recipe"] == "x" and metadata["strides"] == [4, 8, 16, 32]
    images = torch.randn(1, 3, 64, 64)
    for name, level in load_trunk(tmp_path / "trunk.safetensors")(images).items():
        torch.testing.assert_close(level, trunk(images)[name])


@pytest.mark.parametrize(
    "given, trained, parts",
    [
        ({}, PIECES, "backbone+pyramid+head"),
        ({"parts": "backbone+pyramid"}, PIECES[:-1], "backbone+pyramid"),
        ({"trained": ("backbone", "p5", "head")}, ("backbone", "p5", "head"), "backbone+pyramid+head"),
        ({"trained": ["backbone"]}, ("backbone",), "backbone"),
    ],
)
def test_a_file_tells_what_was_trained(tmp_path, given, trained, parts):
    path = tmp_path / "trunk.safetensors"
    save_trunk(path, Trunk(SMALL), given)
    metadata = read_trunk(path)[2]
    assert (metadata["trained"], metadata["parts"]) == (list(trained), parts)
    read = load_trunk(path)
    assert read.trained == trained and set(read.state_dict()) == set(Trunk(SMALL).state_dict())  # always whole


def test_a_file_of_before_means_all_levels(tmp_path):
    path = tmp_path / "trunk.safetensors"
    save_trunk(path, Trunk(SMALL), {"parts": "backbone+pyramid+head"})
    with safe_open(path, "pt") as opened:
        metadata = {key: value for key, value in opened.metadata().items() if key != "trained"}
        state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
    save_file(state, path, metadata)
    assert read_trunk(path)[2]["trained"] == list(PIECES)
    save_file(state, path, {**metadata, "trained": '["p6"]'})
    with pytest.raises(UserError, match=r"trunk.safetensors: its metadata says that \['p6'\] was trained"):
        read_trunk(path)


@pytest.mark.parametrize("content", [None, b"", b"not a safetensors file"])
def test_bad_trunk_files_are_one_line(tmp_path, content):
    path = tmp_path / "trunk.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="trunk.safetensors") as caught:
        read_trunk(path)
    assert "\n" not in str(caught.value)
