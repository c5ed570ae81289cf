"""Crafted and damaged trunk files: one line that is right about what is wrong, before anything is built."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mcl.config.finetune import DetectorSettings
from mcl.detect.base import DetectorPlan
from mcl.detect.registry import build_detector, settings_of
from mcl.detect.saved import save_detector
from mcl.errors import UserError
from mcl.nn import trunk as trunk_module
from mcl.nn.trunk import Trunk, TrunkSpec, load_trunk, read_trunk, save_trunk

SPEC = TrunkSpec("test_resnet", 16, 2, 64)
FIRST = "backbone.body.conv1.0.weight"


@pytest.fixture(scope="module")
def honest(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("honest") / "trunk.safetensors"
    save_trunk(path, Trunk(SPEC), {"method": "mcl", "parts": "backbone+pyramid+head"})
    return path


@pytest.fixture
def crafted(honest, tmp_path):
    """Write the honest file with other metadata and tensors; None takes one away."""

    def write(metadata: dict | None = None, tensors: dict | None = None, raw: dict | None = None) -> Path:
        from safetensors import safe_open

        with safe_open(honest, "pt") as opened:
            told = dict(opened.metadata())
        told |= {name: json.dumps(value) for name, value in (metadata or {}).items()} | (raw or {})
        state = {**load_file(honest), **(tensors or {})}
        path = tmp_path / "trunk.safetensors"
        save_file(
            {name: tensor for name, tensor in state.items() if tensor is not None},
            path, {name: value for name, value in told.items() if value is not None},
        )  # fmt: skip
        return path

    return write


def refused(path, *says: str) -> None:
    def built(spec: TrunkSpec) -> Trunk:
        assert torch.get_default_device().type == "meta", "memory was spent on a network"
        return Trunk(spec)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError) as caught:
        patch.setattr(trunk_module, "Trunk", built)
        load_trunk(path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500 and all(part in message for part in says), message


def spec(**changed) -> dict:
    told = {"backbone": "test_resnet", "pyramid_channels": 16, "head_convs": 2, "image_size": 64,
            "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], **changed}  # fmt: skip
    return {"spec": {name: value for name, value in told.items() if value != "absent"}}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"pyramid_channels": -1}, "pyramid_channels -1, its tensors say 16"),
        ({"pyramid_channels": 10**9}, "pyramid_channels 1000000000, its tensors say 16"),
        ({"head_convs": 10**6}, "head_convs 1000000, its tensors say 2"),
        ({"pyramid_channels": [16]}, "pyramid_channels [16]; a whole number"),
        ({"head_convs": True}, "head_convs True; a whole number"),
        ({"head_convs": 2.0}, "head_convs 2.0; a whole number"),
        ({"image_size": 0}, "image_size 0; a whole number in 32..4096"),
        ({"image_size": 10**9}, "image_size 1000000000; a whole number in 32..4096"),
        ({"image_size": None}, "image_size None"),
        ({"mean": [0.5, 0.5]}, "mean [0.5, 0.5]; three numbers"),
        ({"mean": "0.5"}, "mean '0.5'; three numbers"),
        ({"std": [0.2, 0.2, 0]}, "three positive numbers"),
        ({"std": [0.2, float("nan"), 0.2]}, "three positive numbers"),
        ({"backbone": ["resnet18"]}, "backbone ['resnet18'], which timm"),
        ({"backbone": "test_resnot"}, "did you mean 'test_resnet'?"),
        ({"backbone": "convnextv2_huge"}, "the file has"),
        ({"backbone": "absent"}, "its spec has no backbone"),
        ({"colour": "red"}, "'colour', which this mcl does not know"),
        ({"x" * 10**5: 1}, "which this mcl does not know"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_crafted_specs(crafted, changed, says):
    refused(crafted(spec(**changed)), "trunk.safetensors: its spec", says)


@pytest.mark.parametrize("given", [[1], "resnet18", 3, None], ids=str)
def test_a_spec_that_is_none(crafted, given):
    refused(crafted({"spec": given}), "its spec is", "not names and values")


def test_numbers_that_no_tensor_tells_have_limits(crafted, honest):
    body = {name: None for name in load_file(honest) if not name.startswith("backbone.body.")}
    refused(crafted(spec(pyramid_channels=10**9), body), "a whole number in 1..2048")
    refused(crafted(spec(head_convs=10**6), body), "a whole number in 0..16")


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"spec": None}, "no trunk of mcl (its metadata has no 'spec')"),
        ({"spec": "{not json"}, "its spec is '{not json'"),
        ({"spec": "[" * 10**5}, "its spec is '[[["),
        ({"format_version": '"new"'}, "its format_version is 'new', not a number"),
        ({"format_version": "7"}, "format 7, this mcl reads up to 1"),
        ({"trained": '["p9"]'}, "['p9'] was trained"),
        ({"trained": "5"}, "5 was trained"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_crafted_metadata(crafted, raw, says):
    refused(crafted(raw=raw), "trunk.safetensors: ", says)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        (FIRST, lambda t: t * float("nan"), f"1 of 150 tensors have numbers that are NaN or infinite ('{FIRST}')"),
        (FIRST, lambda t: t + float("inf"), "NaN or infinite"),
        (FIRST, lambda t: t.to(torch.complex64), "holds complex64 numbers"),
        (FIRST, lambda t: t.to(torch.int8), "holds int8 numbers"),
        (FIRST, lambda t: t.to(torch.float8_e4m3fn), "holds float8_e4m3fn numbers"),
        ("backbone.body.bn1.running_var", lambda t: t - 2, "variances below zero"),
        (FIRST, lambda t: None, f"does not fit: 1 missing ({FIRST})"),
        (FIRST, lambda t: t[:, :2].contiguous(), "1 of another shape"),
        ("surprise\n\x1b[2J", lambda t: torch.ones(1), "1 unexpected (surprise\\n\\x1b[2J)"),
    ],
    ids=["nan", "inf", "complex", "int8", "float8", "variance", "missing", "shape", "unexpected"],
)
def test_crafted_tensors(crafted, honest, name, change, says):
    tensor = load_file(honest).get(name, torch.ones(1))
    refused(crafted(tensors={name: change(tensor)}), "trunk.safetensors: ", says)


def test_weights_of_half_precision_are_read(crafted, honest):
    half = {name: t.half() for name, t in load_file(honest).items() if t.is_floating_point()}
    assert load_trunk(crafted(tensors=half)).backbone.body.bn1.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda good: b"", "it is empty"),
        (lambda good: b"weights? no, a note to myself\n", "it is text, not weights"),
        (lambda good: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        (lambda good: b"<!DOCTYPE html><html>Sign in", "a web page"),
        (lambda good: good[:-100], "cut short"),
        (lambda good: good[:200], "cut short"),
        (lambda good: struct.pack("<Q", 10**12) + good[8:], "header too large"),
        (lambda good: struct.pack("<Q", 4) + b"\xff\xff\xff\xff", "UTF-8"),
    ],
    ids=["empty", "text", "lfs", "html", "truncated", "header", "huge", "binary"],
)
def test_damaged_files(honest, tmp_path, content, says):
    (tmp_path / "trunk.safetensors").write_bytes(content(honest.read_bytes()))
    refused(tmp_path, "trunk.safetensors: not a readable safetensors file: ", says)


def test_what_is_no_file(tmp_path):
    refused(None, "a run folder or weights file is needed, got None")
    refused(3, "got 3")
    refused(tmp_path, "no trunk.safetensors there")
    refused(tmp_path / "nowhere", "nowhere: no trunk.safetensors there")
    refused("x" * 5000, "no trunk.safetensors there")
    refused("a\0b", "no trunk.safetensors there")
    (tmp_path / "config.yaml").touch()
    refused(tmp_path, "has not finished")
    os.mkfifo(tmp_path / "trunk.safetensors")  # opening it would wait for ever
    refused(tmp_path, "is a pipe or a device")
    os.remove(tmp_path / "trunk.safetensors")
    (tmp_path / "trunk.safetensors").mkdir()
    refused(tmp_path, "is a folder")


def test_a_file_that_may_not_be_read(honest, tmp_path, monkeypatch):
    path = tmp_path / "trunk.safetensors"
    path.write_bytes(honest.read_bytes())
    path.chmod(0)
    if os.access(path, os.R_OK):  # root may read all

        def denied(*_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("mcl.nn.stored.safe_open", denied)
    refused(path, "Permission denied")


@pytest.fixture(scope="module", params=["mask-rcnn", "retinanet"])
def fine_tuned(request, tmp_path_factory):
    """(run folder, detector) of a fine-tuned detector."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp(request.param)
    settings: DetectorSettings = settings_of(request.param)()
    plan = DetectorPlan(SPEC, ("a", "b"), settings.fitted(True, SPEC.window), 96)
    detector = build_detector(plan)
    save_detector(folder / "detector.safetensors", detector, plan, {"trunk": "none"})
    return folder, detector


def test_the_trunk_of_a_fine_tuned_run(fine_tuned):
    folder, detector = fine_tuned
    (folder / "config.yaml").touch()
    given = detector.state_dict()
    for path in (folder, folder / "detector.safetensors"):
        spec, state, metadata = read_trunk(path)
        assert spec == SPEC and metadata["classes"] == ["a", "b"] and metadata["method"] == "fine-tuned"
        trunk = load_trunk(path)
        assert trunk.trained == detector.pieces == tuple(metadata["trained"])
        assert state and all(torch.equal(trunk.state_dict()[name], given[name]) for name in state)
    rest = set(trunk.state_dict()) - set(state)
    assert all(name.startswith("roi_heads.box_head.") for name in rest) and ("head" in trunk.trained) == (not rest)


@pytest.mark.parametrize("plan", [3, [], {}, {"spec": 7}], ids=str)
def test_crafted_plans(crafted, plan):
    refused(crafted({"plan": plan}), "trunk.safetensors: its ")


def test_a_transformer_of_fixed_size_has_the_detectors(tmp_path):
    """Its tables are as large as the images it was built for allow."""
    spec = TrunkSpec("swin_tiny_patch4_window7_224", 16, 1, 64)
    plan = DetectorPlan(spec, ("a",), settings_of("faster-rcnn")(fc_channels=8).fitted(False, spec.window), 224)
    detector = build_detector(plan)
    save_detector(tmp_path / "detector.safetensors", detector, plan, {})
    trunk = load_trunk(tmp_path)
    assert trunk.spec.image_size == 224
    name = "backbone.body.layers_0.blocks.0.attn.relative_position_bias_table"
    assert torch.equal(trunk.state_dict()[name], detector.state_dict()[name])
