"""Plain transformers in and out: other tools' checkpoints by their prefixes, timm and Detectron2's ViTDet by numbers, detectors."""

from __future__ import annotations

import pickle

import pytest
import torch

import mcl
from mcl.config.finetune import FinetuneOptim, TransformerSettings
from mcl.detect.base import DetectorPlan
from mcl.detect.finetune import rates_of_parts
from mcl.detect.load import load_trunk_into
from mcl.detect.registry import build_detector, settings_of
from mcl.errors import UserError
from mcl.interop.reading.initial import apply_initial_weights, read_any_trunk
from mcl.nn.backbone import build_backbone, features_of
from mcl.nn.parts import BODY, PIECES
from mcl.nn.trunk import Trunk, TrunkSpec, save_trunk
from mcl.nn.vit import resized
from mcl.run.detector_start import attending

NAME = "vit_tiny_patch16_224"
SPEC = TrunkSpec(NAME, 16, 2, 64)


@pytest.fixture(scope="module")
def vit() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    state = {name: t.clone() for name, t in build_backbone(NAME, 64).state_dict().items()}
    return {**state, "norm.weight": torch.ones(192), "norm.bias": torch.zeros(192)}


def under(prefix: str, state: dict) -> dict:
    return {prefix + name: tensor for name, tensor in state.items()}


def zeros(state: dict) -> dict:
    return {name: torch.zeros_like(tensor) for name, tensor in state.items()}


CHECKPOINTS = {
    "plain": lambda s: s | {"head.weight": torch.ones(10, 192), "head.bias": torch.ones(10)},
    "MAE": lambda s: {"model": s | {"mask_token": torch.ones(1, 1, 8), "decoder_embed.weight": torch.ones(8, 192), "decoder_pos_embed": torch.ones(1, 17, 8), "decoder_blocks.0.norm1.weight": torch.ones(8)}},
    "DINO": lambda s: {"student": under("module.backbone.", zeros(s)), "teacher": under("backbone.", s) | {"head.last_layer.weight_v": torch.ones(4, 2)}, "epoch": 3},
    "MoCo": lambda s: {"state_dict": under("module.base_encoder.", s) | under("module.base_encoder.head.", {"0.weight": torch.ones(3, 192)}) | under("module.momentum_encoder.", zeros(s))},
}  # fmt: skip


@pytest.mark.parametrize("kind", CHECKPOINTS)
@pytest.mark.parametrize("size", [64, 96])
def test_every_prefix_loads_the_trained_network(kind, size, vit, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(CHECKPOINTS[kind](vit), path)
    trunk = Trunk(TrunkSpec(NAME, 16, 1, size))
    report = apply_initial_weights(trunk, path)
    assert report.kind.split()[0] == kind and not report.missing and not report.unexpected
    for name, tensor in trunk.backbone.body.state_dict().items():
        if name != "pos_embed" or size == 64:
            assert torch.equal(tensor, vit[name]), name
    if size == 96:
        wanted = resized(vit["pos_embed"][0, 1:].unflatten(0, (4, 4)), (6, 6)).flatten(0, 1)
        torch.testing.assert_close(trunk.backbone.body.pos_embed[0, 1:], wanted)
        assert any("interpolated from 4 x 4 cells to 6 x 6" in note for note in report.notes)


def test_a_foreign_transformer_is_told_from_its_tensors(vit, tmp_path):
    torch.save(CHECKPOINTS["MAE"](vit), tmp_path / "mae.pth")
    spec, state, told = read_any_trunk(tmp_path / "mae.pth", 64)
    assert (spec.backbone, spec.patch_size, spec.image_size, told["trained"]) == (NAME, 0, 64, ["backbone"])
    assert not Trunk(spec).load_state_dict(state, strict=False).unexpected_keys
    torch.manual_seed(0)
    torch.save(build_backbone(NAME, 64, form=TrunkSpec(patch_size=8).form).state_dict(), tmp_path / "eight.pth")
    assert read_any_trunk(tmp_path / "eight.pth", 64)[0].patch_size == 8


@pytest.mark.parametrize("spec", [SPEC, TrunkSpec(NAME, 16, 2, 64, patch_size=8)], ids=["16", "8"])
def test_timm_computes_the_same(spec, tmp_path):
    save_trunk(tmp_path / "trunk.safetensors", Trunk(spec), {})
    out = mcl.export(trunk=tmp_path / "trunk.safetensors", to="timm", out=tmp_path / "folder")
    assert max(out["differences"].values()) < 1e-5
    read, _, told = read_any_trunk(tmp_path / "folder", 64)
    assert (read.backbone, read.patch_size) == (NAME, spec.patch_size) and told["trained"] == ["backbone"]


@pytest.mark.parametrize("window", [0, 3])
def test_detectron2s_vitdet_computes_the_same_without_a_class_token(window, tmp_path):
    trunk = Trunk(TrunkSpec(NAME, 16, 2, 64, attention_window=window)).eval()
    save_trunk(tmp_path / "trunk.safetensors", trunk, {})
    out = mcl.export(trunk=tmp_path / "trunk.safetensors", to="detectron2-vitdet", out=tmp_path / "vit.pkl")
    assert set(out["differences"]) == {"c4", "p2", "p3", "p4", "p5", "head"} and max(out["differences"].values()) < 1e-5
    with open(tmp_path / "vit.pkl", "rb") as file:
        model = pickle.load(file)["model"]
    assert {"backbone.net.pos_embed", "backbone.net.blocks.11.mlp.fc2.bias", "backbone.simfp_2.0.weight", "backbone.simfp_2.1.weight",
            "backbone.simfp_2.3.bias", "backbone.simfp_2.4.norm.weight", "backbone.simfp_2.5.weight", "backbone.simfp_3.2.norm.bias",
            "backbone.simfp_4.0.weight", "backbone.simfp_5.1.weight", "roi_heads.box_head.conv2.norm.weight"} <= set(model)  # fmt: skip
    assert model["backbone.net.pos_embed"].shape == (1, 17, 192) and "backbone.net.cls_token" not in model
    text = (tmp_path / "vit.py").read_text()
    compile(text, "vit.py", "exec")
    assert f"net.window_size, net.window_block_indexes = {window}, " in text
    with pytest.raises(UserError, match="patches of 16 px only, not resnet18"):
        save_trunk(tmp_path / "r.safetensors", Trunk(TrunkSpec("resnet18", 16, 1, 64)), {})
        mcl.export(trunk=tmp_path / "r.safetensors", to="detectron2-vitdet", out=tmp_path / "r.pkl")


@pytest.mark.parametrize("name", ["mask-rcnn", "retinanet"])
def test_a_detector_of_another_size_with_windows_and_dropped_paths(name):
    settings = settings_of(name)
    small = {"fc_channels": 16, "boxes_per_image": 8} if "fc_channels" in settings.model_fields else {}
    trunk = Trunk(TrunkSpec("test_vit", 16, 2, 64, patch_size=8))
    spec = attending(trunk.spec, TransformerSettings(attention_window=4))
    detector = build_detector(DetectorPlan(spec, ("a", "b"), settings(**small), 96, drop_path=0.1)).train()
    report = load_trunk_into(detector, trunk.state_dict(), PIECES if name == "mask-rcnn" else PIECES[:-1])
    assert not report.missing and spec.attention_window == 4 and detector.backbone.body.form.window == 4
    assert any(getattr(m, "drop_prob", 0) for m in detector.modules())
    target = {"boxes": torch.tensor([[4.0, 4.0, 40.0, 40.0]]), "labels": torch.tensor([1]), "masks": torch.ones(1, 96, 96, dtype=torch.uint8)}
    loss = sum(detector(list(torch.rand(2, 3, 96, 96)), [target, target]).values())
    loss.backward()
    assert torch.isfinite(loss) and detector.backbone.body.blocks[0].attn.qkv.weight.grad.abs().sum() > 0
    with pytest.raises(UserError, match="resnet18 is no plain transformer"):
        attending(TrunkSpec("resnet18"), TransformerSettings(attention_window=4))


def test_rates_decay_from_the_last_block_to_the_patches():
    """ViTDet: block i of n gets decay^(n - i), patches, positions and class token decay^(n + 1)."""
    body = build_backbone("test_vit", 64)
    rate_of = rates_of_parts(FinetuneOptim(layer_decay=0.5, backbone_lr=2.0, heads_lr=3.0), body)
    found = {BODY + name: rate_of(BODY + name) for name, _ in body.named_parameters()}
    assert found[BODY + "blocks.5.attn.qkv.weight"] == 2 * 0.5 and found[BODY + "blocks.0.norm1.bias"] == 2 * 0.5**6
    assert {found[BODY + name] for name in ("pos_embed", "cls_token", "patch_embed.proj.weight")} == {2 * 0.5**7}
    assert rate_of("roi_heads.box_head.0.0.weight") == 3.0 and rate_of("backbone.fpn.inner_blocks.0.0.weight") == 1.0
    assert rates_of_parts(FinetuneOptim(), body)(BODY + "blocks.0.norm1.bias") == 1.0
    with pytest.raises(UserError, match="layer_decay"):
        rates_of_parts(FinetuneOptim(layer_decay=0.5), build_backbone("test_resnet", 64))
    assert features_of(body, torch.zeros(1, 3, 96, 96))[0].shape[-1] == 6
