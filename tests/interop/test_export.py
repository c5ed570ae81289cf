"""Every export, loaded the way its receiver documents, by code that is not ours."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
import yaml

import mcl
from mcl.errors import RunFailed, UserError
from mcl.interop.detectron2.pickle import read_pickle
from mcl.interop.torchvision import trunk_format as torchvision_format
from mcl.interop.writing import exported
from mcl.nn.trunk import load_trunk, read_trunk, save_trunk

from .conftest import make_detector, make_trunk

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_torchvision_resnet(resnet18, tmp_path):
    out = mcl.export(trunk=resnet18, to="torchvision-resnet", out=tmp_path / "r.pth")
    assert set(out["differences"]) == {"c2", "c3", "c4", "c5"} and max(out["differences"].values()) < 1e-5
    network = torchvision.models.resnet18()
    outcome = network.load_state_dict(torch.load(tmp_path / "r.pth", weights_only=True), strict=False)
    assert outcome.missing_keys == ["fc.weight", "fc.bias"] and not outcome.unexpected_keys
    network.fc = torch.nn.Identity()
    pooled = load_trunk(resnet18).backbone.body(IMAGES)[-1].mean((2, 3))
    torch.testing.assert_close(network.eval()(IMAGES), pooled)


def test_torchvision_detector_of_another_width(resnet18, tmp_path):
    out = mcl.export(trunk=resnet18, to="torchvision", out=tmp_path / "m.pth")
    assert {"p2", "p5", "head"} <= set(out["differences"]) and "MaskRCNN" in out["checked_by"]
    state = torch.load(tmp_path / "m.pth", weights_only=True)
    assert set(state) == set(load_trunk(resnet18).state_dict())


def test_torchvision_maskrcnn_resnet50_fpn_v2(tmp_path):
    trunk = make_trunk("resnet50", 256, 4)
    save_trunk(tmp_path / "t.safetensors", trunk, {})
    out = mcl.export(trunk=tmp_path / "t.safetensors", to="torchvision", out=tmp_path / "m.pth")
    assert "maskrcnn_resnet50_fpn_v2" in out["checked_by"] and max(out["differences"].values()) < 1e-5
    with torch.device("meta"):
        detector = torchvision.models.detection.maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None)
        boxes = torchvision.models.detection.fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None)
    state = torch.load(tmp_path / "m.pth", weights_only=True)
    fresh = ("rpn.", "roi_heads.box_head.5", "roi_heads.box_predictor", "roi_heads.mask_")
    for receiver in (detector, boxes):
        outcome = receiver.load_state_dict(state, strict=False, assign=True)
        assert not outcome.unexpected_keys and all(name.startswith(fresh) for name in outcome.missing_keys)


@pytest.mark.parametrize("run", ["resnet18", "convnext"])
def test_timm_folder_opens_offline_in_both_forms(run, request, tmp_path):
    path = request.getfixturevalue(run)
    mcl.export(trunk=path, to="timm", out=tmp_path / "folder")
    name = f"local-dir:{tmp_path / 'folder'}"
    whole = timm.create_model(name, pretrained=True)
    config = timm.data.resolve_model_data_config(whole)
    assert tuple(config["input_size"]) == (3, 64, 64) and tuple(config["mean"]) == (0.485, 0.456, 0.406)
    features = timm.create_model(name, pretrained=True, features_only=True).eval()
    ours = load_trunk(path).backbone.body
    with torch.no_grad():
        for a, b in zip(ours(IMAGES), features(IMAGES)[-4:], strict=True):
            torch.testing.assert_close(a, b)
    card = (tmp_path / "folder" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "timm" and "f00d" in card and "mcl-r18-64" in card and "1.00 h" in card
    assert "pre-trained with mcl (Multi-level, arXiv 2304.02010), with the Python tool" in card
    assert sorted(p.name for p in (tmp_path / "folder").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


def test_timm_folder_can_be_started_from(resnet18, tmp_path):
    from mcl.interop.reading.initial import apply_initial_weights, read_any_trunk

    mcl.export(trunk=resnet18, to="timm", out=tmp_path / "folder")
    spec, _, _ = read_any_trunk(tmp_path / "folder", 64)
    trunk = load_trunk(resnet18)
    with torch.no_grad():
        trunk.backbone.body.conv1.weight.zero_()
    assert (
        apply_initial_weights(trunk, tmp_path / "folder").kind == "timm resnet18"
        and spec.backbone == "resnet18"
    )
    assert trunk.backbone.body.conv1.weight.abs().sum() > 0


def test_detectron2(resnet18, tmp_path):
    out = mcl.export(trunk=resnet18, to="detectron2", out=tmp_path / "d2.pkl")
    assert [Path(p).name for p in out["files"]] == ["d2.pkl", "d2.yaml", "d2.retinanet.yaml"]
    content = pickle.loads((tmp_path / "d2.pkl").read_bytes(), encoding="latin1")  # as Detectron2 does
    assert content["matching_heuristics"] is True and content["__author__"]
    model = content["model"]
    assert all(isinstance(value, np.ndarray) for value in model.values())
    # names of method.md (Transfer), shapes of a ResNet-18 with 32 channels
    documented = {
        "backbone.bottom_up.stem.conv1.weight": (64, 3, 7, 7), "backbone.bottom_up.stem.conv1.norm.running_var": (64,),
        "backbone.bottom_up.res2.0.conv1.weight": (64, 64, 3, 3), "backbone.bottom_up.res3.0.shortcut.weight": (128, 64, 1, 1),
        "backbone.bottom_up.res3.0.shortcut.norm.bias": (128,), "backbone.bottom_up.res5.1.conv2.norm.weight": (512,),
        "backbone.fpn_lateral2.weight": (32, 64, 1, 1), "backbone.fpn_lateral5.norm.weight": (32,),
        "backbone.fpn_output3.weight": (32, 32, 3, 3), "backbone.fpn_output5.norm.running_mean": (32,),
        "roi_heads.box_head.conv1.weight": (32, 32, 3, 3), "roi_heads.box_head.conv4.norm.weight": (32,),
    }  # fmt: skip
    assert {name: model[name].shape for name in documented} == documented
    assert len(model) == len(load_trunk(resnet18).state_dict())
    assert np.array_equal(
        model["backbone.fpn_output2.weight"],
        load_trunk(resnet18).backbone.fpn.layer_blocks[0][0].weight.detach(),
    )
    assert b"numpy._core" not in (tmp_path / "d2.pkl").read_bytes()  # numpy 1 could not read it
    config = yaml.safe_load((tmp_path / "d2.yaml").read_text())
    assert config["INPUT"]["FORMAT"] == "RGB" and config["MODEL"]["PIXEL_STD"] == [58.395, 57.12, 57.375]
    assert (
        config["MODEL"]["BACKBONE"]["FREEZE_AT"] == 0 and config["MODEL"]["RESNETS"]["STRIDE_IN_1X1"] is False
    )
    head = config["MODEL"]["ROI_BOX_HEAD"]
    assert (head["NUM_CONV"], head["NUM_FC"], head["NORM"]) == (4, 1, "SyncBN")
    assert yaml.safe_load((tmp_path / "d2.retinanet.yaml").read_text())["MODEL"]["FPN"]["IN_FEATURES"] == [
        "res3",
        "res4",
        "res5",
    ]
    assert read_pickle(tmp_path / "d2.pkl")["model"].keys() == model.keys()


def test_mmdetection(resnet18, tmp_path):
    mcl.export(trunk=resnet18, to="mmdetection", out=tmp_path / "mm.pth")
    state = torch.load(tmp_path / "mm.pth", weights_only=True)["state_dict"]
    documented = {
        "backbone.conv1.weight": (64, 3, 7, 7), "backbone.layer3.0.downsample.1.running_var": (256,),
        "neck.lateral_convs.0.conv.weight": (32, 64, 1, 1), "neck.lateral_convs.3.bn.weight": (32,),
        "neck.fpn_convs.2.conv.weight": (32, 32, 3, 3), "neck.fpn_convs.2.bn.running_mean": (32,),
        "roi_head.bbox_head.shared_convs.3.conv.weight": (32, 32, 3, 3), "roi_head.bbox_head.shared_convs.0.bn.bias": (32,),
    }  # fmt: skip
    assert {name: tuple(state[name].shape) for name in documented} == documented
    config: dict = {}
    exec((tmp_path / "mm.py").read_text(), config)
    assert (
        config["_base_"] == "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
        and config["checkpoint"] == "mm.pth"
    )
    assert config["model"]["roi_head"]["bbox_head"]["type"] == "Shared4Conv1FCBBoxHead"
    assert config["model"]["neck"]["norm_cfg"]["type"] == "BN" and config["model"]["backbone"]["depth"] == 18


def test_safetensors_of_some_parts(convnext, tmp_path):
    mcl.export(trunk=convnext, to="safetensors", out=tmp_path / "t.safetensors", parts="backbone+pyramid")
    spec, state, metadata = read_trunk(tmp_path / "t.safetensors")
    assert metadata["parts"] == "backbone+pyramid" and metadata["recipe"] == "mcl-r18-64"
    assert not any(name.startswith("roi_heads") for name in state) and spec.backbone == "test_convnext"


def test_detector_as_onnx(detector_run, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    out = mcl.export(trunk=detector_run, to="onnx", out=tmp_path / "d.onnx")
    assert out["differences"]["boxes"] < 1e-2 and out["differences"]["scores"] < 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "d.onnx"))
    boxes, labels, scores, *masks = session.run(None, {"image": np.random.rand(3, 50, 70).astype(np.float32)})
    assert len(boxes) == len(labels) == len(scores) > 0 and all(m.shape[-2:] == (50, 70) for m in masks)


def test_detector_for_torchvision_needs_no_mcl(detector_run, tmp_path):
    out = mcl.export(trunk=detector_run, to="torchvision", out=tmp_path / "d.pth", **{"with": "detector"})
    assert out["covered"] == 1 and max(out["differences"].values()) == 0
    assert "mcl." not in (tmp_path / "d.py").read_text().replace("mcl export", "")


def test_trunk_of_a_finetuned_detector(tmp_path):
    detector_run = make_detector(tmp_path, masks=False)
    out = mcl.export(trunk=detector_run, to="torchvision-resnet", out=tmp_path / "r.pth")
    assert out["parts"] == "backbone"
    (detector_run / "summary.json").write_text(
        json.dumps({"box_AP": 0.321, "cost": {"seconds": 7200, "images": 5}})
    )
    mcl.export(trunk=detector_run, to="timm", out=tmp_path / "folder")
    card = (tmp_path / "folder" / "README.md").read_text()
    assert '"box_AP": 0.321' in card and "trained on boxes" in card and "2.00 h" in card


@pytest.mark.parametrize("to", ["torchvision", "torchvision-resnet", "detectron2", "mmdetection"])
def test_other_families_are_told_which_formats_work(to, convnext, tmp_path):
    with pytest.raises(
        UserError, match="it has no test_convnext, only ResNets.*; .* --to timm or --to safetensors"
    ):
        mcl.export(trunk=convnext, to=to, out=tmp_path / ("x.pkl" if to == "detectron2" else "x.pth"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("backbone", ["test_resnet", "resnet10t"])
def test_resnets_of_another_form_are_refused(backbone, tmp_path):
    save_trunk(tmp_path / "t.safetensors", make_trunk(backbone), {})
    with pytest.raises(UserError, match=f"it has no {backbone}"):
        mcl.export(trunk=tmp_path / "t.safetensors", to="torchvision", out=tmp_path / "x.pth")


def test_nothing_is_left_when_the_check_fails(resnet18, tmp_path, monkeypatch):
    honest = torchvision_format.rcnn_maps
    monkeypatch.setattr(
        torchvision_format, "rcnn_maps", lambda *a: {**honest(*a), "p3": honest(*a)["p3"] * 1.001}
    )
    with pytest.raises(RunFailed, match="p3 differs by 1.0e-03"):
        mcl.export(trunk=resnet18, to="torchvision", out=tmp_path / "m.pth")
    assert not list(tmp_path.iterdir())


def test_a_map_that_is_not_finite_fails_the_check():
    with pytest.raises(RunFailed):
        exported.compare({"c2": torch.ones(2)}, {"c2": torch.tensor([1.0, float("nan")])})


def test_existing_output_is_kept_unless_asked(resnet18, tmp_path):
    (tmp_path / "r.pth").write_text("mine")
    with pytest.raises(UserError, match="exists; choose another name or give --overwrite"):
        mcl.export(trunk=resnet18, to="torchvision-resnet", out=tmp_path / "r.pth")
    assert (tmp_path / "r.pth").read_text() == "mine"
    mcl.export(trunk=resnet18, to="torchvision-resnet", out=tmp_path / "r.pth", overwrite=True)
    with pytest.raises(UserError, match="is a folder that mcl export did not write"):
        mcl.export(trunk=resnet18, to="timm", out=tmp_path, overwrite=True)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "required: TRUNK"),
        (["r1"], "--to is required; --out is required"),
        (["r1", "--to", "tim", "--out", "x"], "did you mean 'timm'?"),
        (["r1", "--too", "timm", "--out", "x"], "unknown setting '--too' (did you mean 'to'?)"),
        (["r1", "r2", "--to", "timm", "--out", "x"], "unexpected argument 'r2'"),
        (["--trunk", "r1", "--to", "timm", "--out", "x"], "trunk is given by its place"),
        (["nowhere", "--to", "timm", "--out", "x"], "nowhere: no trunk.safetensors there"),
        (["nowhere", "--to", "onnx", "--out", "x"], "needs a fine-tuned detector"),
        (
            ["nowhere", "--to", "timm", "--out", "x", "--with", "detector"],
            "only --to torchvision and --to onnx",
        ),
    ],
)
def test_mistakes_on_the_command_line(argv, says, capsys, tmp_path, monkeypatch):
    from mcl.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(["export", *argv]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_help_names_the_place_and_the_formats(capsys):
    from mcl.cli import main

    assert main(["export", "--help"]) == 0
    text = capsys.readouterr().out
    assert "TRUNK" in text and "--with" in text and "detectron2" in text


def test_command_line_end_to_end(resnet18, tmp_path, capsys):
    from mcl.cli import main

    assert (
        main(["export", str(resnet18), "--to", "safetensors", "--out", str(tmp_path / "t.safetensors")]) == 0
    )
    assert json.loads(json.dumps(capsys.readouterr().out)).count("exported backbone+pyramid+head") == 1
