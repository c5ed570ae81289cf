"""Weights of other tools: every prefix found, every tensor at its place, nothing executed."""

from __future__ import annotations

import argparse
import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from mcl.errors import UserError
from mcl.interop.detectron2.names import to_detectron2
from mcl.interop.reading.foreign import read_foreign
from mcl.interop.reading.initial import apply_initial_weights, read_any_trunk
from mcl.nn.parts import PIECES, pieces_in
from mcl.nn.trunk import Trunk, TrunkSpec, load_trunk, save_trunk

from .conftest import make_trunk, randomise

BODY = "backbone.body."
SPEC = TrunkSpec("resnet18", 32, 4, 64)
AUTHORS_JSON = Path(__file__).parents[1] / "golden" / "data" / "r18_64.json"


@pytest.fixture(scope="module")
def resnet() -> dict[str, torch.Tensor]:
    """State dict of torchvision's ResNet-18 with its classifier."""
    torch.manual_seed(3)
    return randomise(torchvision.models.resnet18()).state_dict()


@pytest.fixture(scope="module")
def fresh() -> Trunk:
    return Trunk(SPEC)


@pytest.fixture
def trunk(fresh) -> Trunk:
    return copy.deepcopy(fresh)


def under(prefix: str, state: dict) -> dict:
    return {prefix + name: tensor for name, tensor in state.items()}


def zeros(state: dict) -> dict:
    return {name: torch.zeros_like(tensor) for name, tensor in state.items()}


def counted(state: dict) -> dict:
    numbers = {
        "conv1": "0",
        "bn1": "1",
        "layer1": "4",
        "layer2": "5",
        "layer3": "6",
        "layer4": "7",
        "fc": "9",
    }
    return {".".join([numbers[n.partition(".")[0]], n.partition(".")[2]]): t for n, t in state.items()}


CHECKPOINTS = {
    "torchvision / timm ResNet": lambda s: s,
    "MoCo v1/v2": lambda s: {"epoch": 1, "arch": "r", "state_dict": under("module.encoder_q.", s) | under("module.encoder_k.", zeros(s)) | {"module.queue": torch.ones(2, 3)}},
    "MoCo v3": lambda s: {"args": argparse.Namespace(a=1), "state_dict": under("module.base_encoder.", s) | under("module.momentum_encoder.", zeros(s))},
    "BYOL lucidrains": lambda s: under("target_encoder.net.", zeros(s)) | under("online_encoder.net.", s),
    "BYOL OpenSelfSup": lambda s: {"state_dict": under("online_net.0.", s) | under("target_net.0.", zeros(s)), "meta": {"epoch": 3}},
    "SimSiam": lambda s: {"state_dict": under("module.encoder.", s) | {"module.predictor.0.weight": torch.ones(3, 3)}},
    "DenseCL": lambda s: {"state_dict": under("encoder_q.0.", s) | under("encoder_k.0.", zeros(s))},
    "SwAV": lambda s: under("module.", s) | {"module.prototypes.weight": torch.ones(3, 3)},
    "DINO": lambda s: {"student": under("module.backbone.", zeros(s)), "teacher": under("backbone.", s) | {"head.last_layer.weight_v": torch.ones(2)}, "epoch": 4},
    "ResNet backbone": lambda s: {"state_dict": under("backbone.", s)},
    "ResNet counted by lightly": lambda s: {"state_dict": under("backbone.", counted(s)) | under("backbone_momentum.", counted(zeros(s)))},
}  # fmt: skip


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_every_prefix_loads_the_trained_network(kind, resnet, trunk, tmp_path):
    path = tmp_path / "weights.pth.tar"
    torch.save(CHECKPOINTS[kind](resnet), path)
    report = apply_initial_weights(trunk, path)
    assert report.kind.split()[0] == kind.split()[0]
    assert not report.missing and not report.unexpected
    for name, tensor in trunk.state_dict().items():
        if name.startswith(BODY):
            assert torch.equal(tensor, resnet[name.removeprefix(BODY)]), name
    assert all(name.startswith(("backbone.fpn", "roi_heads")) for name in report.fresh)


def test_authors_checkpoint_brings_all_three_parts(tmp_path):
    shapes = json.loads(AUTHORS_JSON.read_text())["state_dict_shapes"]
    torch.manual_seed(0)
    state = {n: torch.rand(s) if "tracked" not in n else torch.tensor(3) for n, s in shapes.items()}
    torch.save({"model": under("module.", state), "epoch": 2}, tmp_path / "mcl.pth")
    trunk = Trunk(TrunkSpec("resnet18", 32, 4, 64))
    report = apply_initial_weights(trunk, tmp_path / "mcl.pth")
    assert not report.fresh and report.covered == 1
    assert torch.equal(
        trunk.roi_heads.box_head[2][1].running_var, state["encoder_q.2.cls_convs.2.bn.running_var"]
    )
    assert torch.equal(
        trunk.backbone.fpn.inner_blocks[3][0].weight, state["encoder_q.1.lateral_convs.3.conv.weight"]
    )
    spec, read, metadata = read_any_trunk(tmp_path / "mcl.pth", 64)
    assert spec == TrunkSpec("resnet18", 32, 4, 64) and metadata["parts"] == "backbone+pyramid+head"
    Trunk(spec).load_state_dict(read)


def test_own_trunk_and_parts(resnet18, trunk):
    report = apply_initial_weights(trunk, resnet18, "backbone+pyramid")
    assert report.fresh == [n for n in sorted(trunk.state_dict()) if n.startswith("roi_heads")]
    assert read_any_trunk(resnet18)[0] == SPEC


def test_of_an_own_trunk_what_was_trained_is_taken(resnet18, trunk, tmp_path):
    some, before = tmp_path / "some.safetensors", {n: t.clone() for n, t in trunk.state_dict().items()}
    save_trunk(some, load_trunk(resnet18), {"trained": ["backbone", "p5", "head"]})
    assert load_trunk(some).trained == ("backbone", "p5", "head") and load_trunk(resnet18).trained == PIECES
    with pytest.raises(UserError, match="no trained p2, p3, p4 .trained: backbone.p5.head.*--init_parts"):
        apply_initial_weights(trunk, some, "backbone+pyramid")
    report = apply_initial_weights(trunk, some)
    changed = {n for n, t in trunk.state_dict().items() if not torch.equal(t, before[n])}
    assert report.pieces == ("backbone", "p5", "head") and changed <= set(report.matched)
    assert "backbone.fpn.layer_blocks.3.0.weight" in changed and "backbone.fpn.layer_blocks.2.0.weight" in report.fresh
    assert read_any_trunk(some)[2]["trained"] == ["backbone", "p5", "head"]


def test_incomplete_is_refused_and_allow_partial_lets_it_pass(resnet, trunk, tmp_path):
    broken = {n: t for n, t in resnet.items() if not n.startswith("layer4.1.conv2")}
    torch.save(broken, tmp_path / "w.pth")
    with pytest.raises(
        UserError, match=r"1 missing \(backbone.body.layer4.1.conv2.weight\).*--allow_partial"
    ):
        apply_initial_weights(trunk, tmp_path / "w.pth")
    assert apply_initial_weights(trunk, tmp_path / "w.pth", allow_partial=True).missing
    with pytest.raises(UserError, match="no trained p2, p3, p4, p5 .trained: backbone.*--init_parts"):
        apply_initial_weights(trunk, tmp_path / "w.pth", "backbone+pyramid")
    report = apply_initial_weights(trunk, tmp_path / "w.pth", "backbone+pyramid", allow_partial=True)
    assert report.pieces == ("backbone",) and any("p2, p3, p4, p5" in note for note in report.notes)


def test_small_stem_is_named(resnet, trunk, tmp_path):
    torch.save({**resnet, "conv1.weight": torch.rand(64, 3, 3, 3)}, tmp_path / "simclr.pth")
    with pytest.raises(UserError, match="3x3 convolution .SimCLR"):
        apply_initial_weights(trunk, tmp_path / "simclr.pth")
    assert apply_initial_weights(trunk, tmp_path / "simclr.pth", allow_partial=True).mismatched


def test_deep_stem_is_named(trunk, tmp_path):
    torch.save(timm.create_model("resnet18d").state_dict(), tmp_path / "r18d.pth")
    with pytest.raises(UserError, match="three 3x3 convolutions"):
        apply_initial_weights(trunk, tmp_path / "r18d.pth")


@pytest.mark.parametrize("std", [(1.0, 1.0, 1.0), (57.375, 57.12, 58.395)], ids=["caffe", "imagenet"])
def test_openmmlab_caffe_weights_are_turned_to_rgb(std, resnet, trunk, tmp_path):
    config = f"data_preprocessor=dict(mean=[103.53, 116.28, 123.675], std={list(std)}, bgr_to_rgb=False)"
    torch.save({"meta": {"cfg": config}, "state_dict": under("backbone.", resnet)}, tmp_path / "caffe.pth")
    report = apply_initial_weights(trunk, tmp_path / "caffe.pth")
    assert any("BGR" in note for note in report.notes)
    scale = torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1) if std[0] == 1 else 1
    assert torch.equal(trunk.backbone.body.conv1.weight, resnet["conv1.weight"].flip(1) * scale)


def test_another_depth_is_named(tmp_path, trunk):
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "r34.pth")
    with pytest.raises(
        UserError, match="it is a resnet34, the trunk's backbone a resnet18; set --model.backbone resnet34"
    ):
        apply_initial_weights(trunk, tmp_path / "r34.pth")


def test_batch_norm_without_counters_is_complete(resnet, trunk, tmp_path):
    torch.save({n: t for n, t in resnet.items() if "tracked" not in n}, tmp_path / "frozen.pth")
    assert not apply_initial_weights(trunk, tmp_path / "frozen.pth").missing


def detectron2_file(path: Path, trunk: Trunk, author: str, prefix: str = "backbone.bottom_up.") -> None:
    state = {to_detectron2(n): t for n, t in trunk.state_dict().items() if "tracked" not in n}
    model = {n.replace("backbone.bottom_up.", prefix): t.numpy() for n, t in state.items()}
    path.write_bytes(
        pickle.dumps({"model": model, "__author__": author, "matching_heuristics": True}, protocol=2)
    )


def test_detectron2_rgb_file(trunk, tmp_path):
    given = make_trunk("resnet18", 32, seed=5)
    detectron2_file(tmp_path / "d2.pkl", given, "torchvision")
    report = apply_initial_weights(trunk, tmp_path / "d2.pkl")
    assert report.covered == 1
    assert torch.equal(
        trunk.backbone.fpn.layer_blocks[1][0].weight, given.backbone.fpn.layer_blocks[1][0].weight
    )


def test_detectron2_zoo_weights_become_the_same_function_of_rgb(trunk, tmp_path):
    given = make_trunk("resnet18", 32, seed=5)
    detectron2_file(tmp_path / "zoo.pkl", given, "Detectron2 Model Zoo", prefix="")
    report = apply_initial_weights(trunk, tmp_path / "zoo.pkl")
    assert any("BGR" in note for note in report.notes) and any("std 1" in note for note in report.notes)
    rgb = torch.rand(1, 3, 64, 64)
    mean, std = torch.tensor(SPEC.mean).view(1, 3, 1, 1), torch.tensor(SPEC.std).view(1, 3, 1, 1)
    zoo_input = 255 * (rgb - mean).flip(1)  # BGR, mean subtracted, std 1
    # (their std is ImageNet's rounded to a thousandth)
    torch.testing.assert_close(
        trunk.eval()((rgb - mean) / std)["p5"], given(zoo_input)["p5"], rtol=1e-3, atol=1e-3
    )


def test_yaml_beside_a_pickle_says_what_it_wants(trunk, tmp_path):
    given = make_trunk("resnet18", 32, seed=5)
    detectron2_file(tmp_path / "d2.pkl", given, "someone")
    (tmp_path / "d2.yaml").write_text("INPUT: {FORMAT: BGR}\nMODEL: {PIXEL_STD: [57.375, 57.12, 58.395]}\n")
    apply_initial_weights(trunk, tmp_path / "d2.pkl")
    assert torch.equal(trunk.backbone.body.conv1.weight, given.backbone.body.conv1.weight.flip(1))


class Malicious:
    def __reduce__(self):
        return Path.touch, (Path("owned"),)


@pytest.mark.parametrize("name", ["weights.pkl", "weights.pth"])
def test_malicious_pickle_is_refused_and_runs_nothing(name, trunk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = {"model": {"a": np.zeros(2), "b": Malicious()}, "__author__": "x"}
    Path(name).write_bytes(pickle.dumps(content)) if name.endswith("pkl") else torch.save(content, name)
    with pytest.raises(UserError, match="refused"):
        apply_initial_weights(trunk, name)
    assert not Path("owned").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("content", [b"", b"junk", b"\x80\x04."], ids=["empty", "junk", "stop"])
@pytest.mark.parametrize("name", ["w.pkl", "w.pth", "w.safetensors"])
def test_damaged_files_are_one_line(name, content, trunk, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        apply_initial_weights(trunk, tmp_path / name)
    assert "\n" not in str(caught.value) and name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "hint"), [("resnet118", "did you mean 'resnet1"), ("resnet18.nope", "it has: resnet18.")]
)
def test_unknown_names(name, hint, trunk):
    with pytest.raises(UserError, match=hint):
        apply_initial_weights(trunk, name)


def test_whole_timm_network_and_wrapped_one(tmp_path):
    torch.manual_seed(0)
    whole = randomise(timm.create_model("test_convnext"))
    trunk = Trunk(TrunkSpec("test_convnext", 16, 1, 64))
    save_file(under("model.", whole.state_dict()), tmp_path / "w.safetensors")
    report = apply_initial_weights(trunk, tmp_path / "w.safetensors")
    assert not report.missing and any("left out (head." in note for note in report.notes)
    assert torch.equal(
        trunk.backbone.body.stages_1.blocks[0].mlp.fc1.weight, whole.stages[1].blocks[0].mlp.fc1.weight
    )


def test_torchvision_convnext_gives_the_same_features(tmp_path):
    torch.manual_seed(0)
    given = torchvision.models.convnext_tiny().eval()
    for name, tensor in given.state_dict().items():
        if name.endswith("layer_scale"):
            tensor.uniform_(0.5, 1)  # at its starting value of 1e-6 no block would matter
    torch.save(given.state_dict(), tmp_path / "w.pth")
    spec, state, _ = read_any_trunk(tmp_path / "w.pth", 64)
    assert spec.backbone == "convnext_tiny" and pieces_in(state) == ("backbone",)
    same_features(spec, tmp_path / "w.pth", given, (1, 3, 5, 7), nhwc=False)


def test_torchvision_swin_gives_the_same_features(tmp_path):
    torch.manual_seed(0)
    given = torchvision.models.swin_t().eval()
    torch.save(given.state_dict(), tmp_path / "w.pth")
    assert read_foreign(tmp_path / "w.pth")[0] == "torchvision swin_tiny_patch4_window7_224"
    same_features(
        TrunkSpec("swin_tiny_patch4_window7_224", 16, 1, 224),
        tmp_path / "w.pth",
        given,
        (1, 3, 5, 7),
        nhwc=True,
    )


@torch.no_grad()
def same_features(
    spec: TrunkSpec, path: Path, given: torch.nn.Module, stages: tuple[int, ...], nhwc: bool
) -> None:
    trunk = Trunk(spec).eval()
    apply_initial_weights(trunk, path)
    x = torch.rand(1, 3, spec.image_size, spec.image_size)
    ours, theirs = trunk.backbone.body(x), x
    for i, stage in enumerate(given.features):
        theirs = stage(theirs)
        if i in stages:
            torch.testing.assert_close(ours[stages.index(i)], theirs, rtol=1e-4, atol=1e-4)
