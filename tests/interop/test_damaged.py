"""Weights of other tools that are crafted or damaged: one line, right about what is wrong, and nothing executed."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

import mcl
from mcl.errors import UserError
from mcl.interop.detectron2.names import to_detectron2
from mcl.interop.reading.initial import apply_initial_weights, read_any_trunk
from mcl.nn.trunk import Trunk, TrunkSpec, load_trunk

from .conftest import make_detector, make_trunk, randomise

SPEC = TrunkSpec("resnet18", 16, 2, 64)
NAMES = ("w.pth", "w.pt", "w.bin", "w.safetensors", "w.pkl")


@pytest.fixture(scope="module")
def trunk() -> Trunk:
    return Trunk(SPEC)


@pytest.fixture(scope="module")
def resnet() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return randomise(torchvision.models.resnet18()).state_dict()


def refused(trunk: Trunk, path: Path | str, *says: str) -> None:
    """By both ways in, in one line each."""
    before = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    for read in (lambda: apply_initial_weights(trunk, path), lambda: read_any_trunk(path)):
        with pytest.raises(UserError) as caught:
            read()
        message = str(caught.value)
        assert "\n" not in message and len(message) < 500 and all(part in message for part in says), message
    assert all(torch.equal(tensor, before[name]) for name, tensor in trunk.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"dear diary,\n today nothing was trained", "text, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "Git LFS"),
        (b"\n<html><body>404", "a web page"),
    ],
    ids=["empty", "text", "lfs", "html"],
)
def test_files_that_are_no_weights_are_called_what_they_are(name, content, says, trunk, tmp_path):
    (tmp_path / name).write_bytes(content)
    refused(trunk, tmp_path / name, name, says)


def test_files_cut_short(resnet, trunk, tmp_path):
    torch.save(resnet, tmp_path / "zip.pth")
    torch.save(resnet, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(resnet, tmp_path / "w.safetensors")
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": {n: t.numpy() for n, t in resnet.items()}}))
    for name in ("zip.pth", "old.pth", "w.safetensors", "w.pkl"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        refused(trunk, tmp_path / name, name, "cut short")


def test_the_content_tells_and_not_the_name(resnet, tmp_path):
    save_file(resnet, tmp_path / "w.pth")
    torch.save(resnet, tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        trunk = Trunk(SPEC)
        assert apply_initial_weights(trunk, tmp_path / name).kind == "torchvision / timm ResNet"
        assert torch.equal(trunk.backbone.body.conv1.weight, resnet["conv1.weight"])


def changed(resnet: dict, name: str, tensor: torch.Tensor) -> dict:
    return {**resnet, name: tensor}


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (torch.full((64, 3, 7, 7), float("nan")), "1 of"),
        (torch.ones(64, 3, 7, 7, dtype=torch.complex64), "complex64"),
        (torch.ones(64, 3, 7, 7, dtype=torch.int32), "int32"),
        (torch.ones(64, 3, 7, 7).to_sparse(), "sparse_coo"),
        (torch.quantize_per_tensor(torch.ones(64, 3, 7, 7), 0.1, 0, torch.quint8), "holds"),
        (torch.ones(1).expand(2**20, 2**10, 7, 7), "more than the file of"),
        (torch.ones(3), "stem has shape [3]"),
        (torch.ones(()), "stem has shape [1]"),
    ],
    ids=["nan", "complex", "int", "sparse", "quantized", "repeated", "vector", "scalar"],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_no_weights(tensor, says, resnet, trunk, tmp_path):
    torch.save(changed(resnet, "conv1.weight", tensor), tmp_path / "w.pth")
    with pytest.raises(UserError) as caught:
        apply_initial_weights(trunk, tmp_path / "w.pth")
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["layer1.0.conv2.weight", "layer4.1.conv2.weight"])
@pytest.mark.parametrize("shape", [(), (64,), (64, 0, 3, 3)], ids=str)
def test_shapes_that_no_resnet_has(name, shape, resnet, trunk, tmp_path):
    torch.save(changed(resnet, name, torch.ones(shape)), tmp_path / "w.pth")
    with pytest.raises(UserError, match="w.pth") as caught:
        apply_initial_weights(trunk, tmp_path / "w.pth")
    assert "\n" not in str(caught.value)


def itself() -> dict:
    content: dict = {"epoch": 3}
    content["state_dict"] = content
    return content


@pytest.mark.parametrize(
    "content",
    [itself(), [1, 2], {}, {"state_dict": None}, {"model": {"layer1": torch.ones(2)}}, torch.ones(3), {3: 4}],
    ids=["itself", "list", "nothing", "none", "one tensor", "tensor", "numbers"],
)
def test_checkpoints_without_weights(content, trunk, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    refused(trunk, tmp_path / "w.pth", "w.pth", "no weights of a backbone in it")


@pytest.mark.parametrize(
    "name",
    ["roi_heads.box_head.conv" + "9" * 5000 + ".weight", "neck.lateral_convs.weight", "neck.lateral_convs.x.conv",
     "layer1." + "9" * 5000 + ".conv1.weight", "fpn_lateral9.weight", "\x1b[2J\nlayer1.0.conv1.weight", ""],
    ids=["digits", "short", "word", "layers", "level", "escape", "none"],
)  # fmt: skip
@pytest.mark.parametrize("first", ["layer1.0.conv1.weight", "res2.0.conv1.weight", "neck.lateral_convs.0.conv.weight"])
def test_names_that_no_tool_gives(name, first, trunk, tmp_path):
    torch.save({name: torch.ones(1), first: torch.ones(1), "a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "w.pth")
    for read in (lambda: apply_initial_weights(trunk, tmp_path / "w.pth"), lambda: read_any_trunk(tmp_path / "w.pth")):
        with pytest.raises(UserError) as caught:
            read()
        assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value) and len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"backbone.bottom_up.stem.conv1.weight": "text"}, "expected an array of numbers, found a str"),
        ({"backbone.bottom_up.stem.conv1.weight": np.array(["x"])}, "found an array of <U1"),
        ({"backbone.bottom_up.stem.conv1.weight": np.array([None])}, "found an array of object"),
        ([1, 2], "expected a dictionary of arrays, found a list"),
        ({3: np.ones(1)}, "no weights of a backbone"),
    ],
    ids=["text", "array of text", "array of objects", "list", "numbers"],
)
def test_crafted_pickles(model, says, trunk, tmp_path):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": model, "__author__": "x"}))
    refused(trunk, tmp_path / "w.pkl", "w.pkl", says)


def test_an_array_that_claims_more_than_the_file_holds(trunk, tmp_path):
    class Claim:
        def __reduce__(self):
            return np.ndarray, ((2**26,), np.dtype("float32"))

    content = {"model": {"backbone.bottom_up.stem.conv1.weight": Claim()}}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(content))
    refused(trunk, tmp_path / "w.pkl", "more than the file of")


def test_what_is_no_file(trunk, tmp_path):
    for name in NAMES:
        os.mkfifo(tmp_path / name)  # opening it would wait for ever
        refused(trunk, tmp_path / name, "is a pipe or a device")
    refused(trunk, "x" * 5000)
    refused(trunk, "a\0b")
    refused(trunk, tmp_path / "nowhere.pth", "neither a file nor a timm model")


@pytest.mark.parametrize(
    ("config", "weights", "says"),
    [
        (b"{", b"", "config.json"),
        (b"\xff\xfe", b"", "config.json"),
        (b"[" * 10**5, b"", "config.json"),
        (b"[1]", b"", "its architecture is None"),
        (b'{"architecture": ["resnet18"]}', b"", "its architecture is ['resnet18']"),
        (b'{"architecture": "resnet18"}', None, "no weights there"),
        (b'{"architecture": "resnet18"}', b"", "empty"),
        (b'{"architecture": "resnet18"}', b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
    ],
    ids=["json", "bytes", "deep", "list", "name", "missing", "empty", "lfs"],
)
def test_folders_in_timms_layout(config, weights, says, trunk, tmp_path):
    (tmp_path / "config.json").write_bytes(config)
    if weights is not None:
        (tmp_path / "model.safetensors").write_bytes(weights)
    refused(trunk, tmp_path, says)


def test_a_small_file_that_names_a_large_network(resnet, trunk, tmp_path):
    (tmp_path / "config.json").write_text('{"architecture": "convnextv2_huge"}')
    save_file(resnet, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="convnextv2_huge, which has .* numbers; the file has"):
        read_any_trunk(tmp_path)


def detectron2_file(path: Path, trunk: Trunk) -> None:
    state = {to_detectron2(name): tensor for name, tensor in trunk.state_dict().items()}
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps({"model": {n: t.numpy() for n, t in state.items()}, "__author__": "someone"}))
    else:
        torch.save({"model": state, "iteration": 3}, path)


@pytest.mark.parametrize("config", ["w.yaml", "config.yaml"])
@pytest.mark.parametrize("name", ["w.pkl", "w.pth"])
@torch.no_grad()
def test_pixels_of_a_detectron2_file_are_read_from_the_yaml_beside_it(name, config, tmp_path):
    given, taken = make_trunk("resnet18", 16, 2, seed=5), Trunk(SPEC)
    detectron2_file(tmp_path / name, given)
    std = [64.0, 50.0, 40.0]  # BGR
    mean = [103.53, 116.28, 123.675]
    (tmp_path / config).write_text(
        f"INPUT: {{FORMAT: BGR}}\nMODEL: {{PIXEL_MEAN: {mean}, PIXEL_STD: {std}, RESNETS: {{STRIDE_IN_1X1: false}}}}\n"
    )
    notes = apply_initial_weights(taken, tmp_path / name).notes
    assert any("BGR" in note for note in notes) and any("std [40.0, 50.0, 64.0]" in note for note in notes)
    assert not any("1x1" in note or "no YAML" in note for note in notes)
    pixels = torch.randint(0, 256, (1, 3, 64, 64)).float()  # RGB
    theirs = given((pixels.flip(1) - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1))
    own = [255 * torch.tensor(values).view(1, 3, 1, 1) for values in (SPEC.mean, SPEC.std)]
    torch.testing.assert_close(taken.eval()((pixels - own[0]) / own[1])["p5"], theirs["p5"], rtol=1e-3, atol=1e-3)


def test_the_yaml_of_the_same_name_comes_first_and_others_are_passed_over(tmp_path):
    given = make_trunk("resnet18", 16, 2, seed=5)
    detectron2_file(tmp_path / "w.pth", given)
    (tmp_path / "config.yaml").write_text("data: photos\nmodel: {backbone: resnet18}\n")  # a run of mcl
    taken = Trunk(SPEC)
    assert "no YAML beside it" in apply_initial_weights(taken, tmp_path / "w.pth").notes[-1]
    assert torch.equal(taken.backbone.body.conv1.weight, given.backbone.body.conv1.weight)
    (tmp_path / "config.yaml").write_text("MODEL: {PIXEL_STD: [1.0, 1.0, 1.0]}\n")
    (tmp_path / "w.yaml").write_text("INPUT: {FORMAT: RGB}\nMODEL: {PIXEL_STD: [58.395, 57.12, 57.375], PIXEL_MEAN: [123.675, 116.28, 103.53]}\n")
    assert apply_initial_weights(taken, tmp_path / "w.pth").notes == ()
    assert torch.equal(taken.backbone.body.conv1.weight, given.backbone.body.conv1.weight)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("MODEL: [", "cannot be read"),
        ("\x00", "cannot be read"),
        ("INPUT: {FORMAT: YUV-BT.601}", "only RGB and BGR"),
        ("INPUT: {FORMAT: [BGR]}", "only RGB and BGR"),
        ("MODEL: {PIXEL_STD: [1.0, 1.0]}", "must be three numbers"),
        ("MODEL: {PIXEL_STD: 1.0}", "must be three numbers"),
        ("MODEL: {PIXEL_STD: [.nan, 1, 1]}", "must be three numbers"),
        ("MODEL: {PIXEL_STD: [0.0, 1.0, 1.0]}", "must be positive"),
    ],
)
def test_a_yaml_that_cannot_be_followed(text, says, trunk, tmp_path):
    detectron2_file(tmp_path / "w.pkl", make_trunk("resnet18", 16, 2))
    (tmp_path / "w.yaml").write_text(text)
    refused(trunk, tmp_path / "w.pkl", "w.yaml", says)


def test_a_fine_tuned_run_can_be_started_from(tmp_path):
    run = make_detector(tmp_path / "run", True)
    for path in (run, run / "detector.safetensors"):
        trunk = Trunk(SPEC)
        report = apply_initial_weights(trunk, path)
        assert report.covered == 1 and "inside a fine-tuned detector" in report.kind
        ours = load_trunk(path).state_dict()
        assert all(torch.equal(tensor, ours[name]) for name, tensor in trunk.state_dict().items())
        spec, state, metadata = read_any_trunk(path)
        assert spec == SPEC and set(state) == set(ours) and "kind" not in metadata
    mcl.export(trunk=run / "detector.safetensors", to="timm", out=tmp_path / "folder")
    assert json.loads((tmp_path / "folder/config.json").read_text())["architecture"] == "resnet18"
