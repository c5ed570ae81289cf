"""Every detector by its name: it learns, resumes bit for bit, is evaluated again; what cannot be is one line."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from mcl.cli import main
from mcl.config.base import from_arguments, from_values
from mcl.config.finetune import EvaluateSettings, FinetuneSettings
from mcl.detect.registry import DETECTORS
from mcl.errors import UserError
from mcl.nn.trunk import Trunk, save_trunk
from mcl.run.evaluate import evaluate
from mcl.run.finetune import finetune

from .conftest import QUICK, SPEC, stop_after_two

SOME = ["backbone", "p5", "head"]


@pytest.fixture(scope="module")
def trunks(tmp_path_factory):
    """Files of the same trunk that tell different things of what was trained."""
    torch.manual_seed(1)
    trunk, folder = Trunk(SPEC), tmp_path_factory.mktemp("trunks")
    for name, metadata in {
        "whole": {"parts": "backbone+pyramid+head"},  # as the version before wrote it
        "some": {"trained": SOME},
        "backbone": {"trained": ["backbone"]},
    }.items():
        save_trunk(folder / f"{name}.safetensors", trunk, metadata)
    return folder


def settings_for(toy, out, name="auto", **given) -> FinetuneSettings:
    quick = {f"detector.{key}": value for key, value in QUICK.get(name, {}).items()}
    values = {
        "train": toy / "train.json", "val": toy / "val.json", "images": toy, "out": out, "batch": 4,
        "precise_bn_images": 8, "schedule.steps": 4, "schedule.warmup_steps": 0, "loop.workers": 0,
        "loop.tensorboard": False, "detector.name": name, "detector.score_threshold": 0.01, **quick,
    }  # fmt: skip
    return from_values(FinetuneSettings, {**values, **given})


@pytest.mark.parametrize("name", DETECTORS)
def test_it_learns_and_is_evaluated_again(name, toy, trunks, tmp_path):
    """Twelve scenes by heart."""
    options = {
        "val": toy / "train.json", "trunk": str(trunks / "whole.safetensors"), "batch": 6, "schedule.steps": 50,
        "optim.lr": 3e-3, "views.flip": 0.0, "precise_bn_images": 12, "loop.log_every": 10,
    }  # fmt: skip
    summary = finetune(settings_for(toy, tmp_path / "run", name, **options))
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    assert summary["detector"] == name and summary["box_AP50"] > 0.1
    assert (summary["mask_AP"] is not None) == (name == "mask-rcnn")
    assert (tmp_path / "run/detections.png").stat().st_size > 10_000
    again = {
        "detector": tmp_path / "run", "val": toy / "train.json", "images": toy, "out": tmp_path / "again", "workers": 0
    }  # fmt: skip
    measured = evaluate(from_values(EvaluateSettings, again))
    # (memory is laid out otherwise after training: sums differ a little)
    assert measured["box_AP50"] == pytest.approx(summary["box_AP50"], abs=0.01)


@pytest.mark.parametrize("name", DETECTORS)
def test_resume_ends_like_an_uninterrupted_run(name, toy, trunks, tmp_path, monkeypatch):
    options = {"trunk": str(trunks / "whole.safetensors"), "views.colour": 0.3, "loop.checkpoint_every": 2}
    finetune(settings_for(toy, tmp_path / "whole", name, **options))
    broken = settings_for(toy, tmp_path / "broken", name, **options)

    with monkeypatch.context() as patch:
        patch.setattr("mcl.run.finetune.run_loop", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            finetune(broken)
    with pytest.raises(UserError, match="--optim.lr was 0.001, now 0.1"):
        finetune(settings_for(toy, tmp_path / "broken", name, **options, **{"optim.lr": 0.1, "resume": True}))
    finetune(broken.model_copy(update={"resume": True}))
    whole, resumed = (load_file(tmp_path / d / "detector.safetensors") for d in ("whole", "broken"))
    assert all(torch.equal(whole[tensor], resumed[tensor]) for tensor in whole)


@pytest.mark.parametrize("name", DETECTORS)
def test_half_precision_and_channels_last(name, toy, tmp_path):
    options = {
        "trunk": "none", "model.backbone": "test_resnet", "model.pyramid_channels": 16, "image_size": 64,
        "loop.precision": "bf16", "loop.channels_last": True, "loop.log_every": 1, "schedule.steps": 2,
    }  # fmt: skip
    summary = finetune(settings_for(toy, tmp_path / "run", name, **options))
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(0 < row["loss"] < 20 for row in rows) and summary["box_AP"] is not None
    saved = load_file(tmp_path / "run/detector.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in saved.values())


def test_masks_decide_when_no_name_is_given(toy, tmp_path):
    boxes = tmp_path / "boxes.json"
    content = json.loads((toy / "train.json").read_text())
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    boxes.write_text(json.dumps(content))
    scratch = {
        "trunk": "none", "model.backbone": "test_resnet", "model.pyramid_channels": 16, "image_size": 64,
        "schedule.steps": 1, "precise_bn_images": 0, "detector.fc_channels": 16,
    }  # fmt: skip
    assert finetune(settings_for(toy, tmp_path / "masks", **scratch))["detector"] == "mask-rcnn"
    assert finetune(settings_for(toy, tmp_path / "plain", train=boxes, **scratch))["detector"] == "faster-rcnn"
    named = settings_for(toy, tmp_path / "ignored", "faster-rcnn", **scratch)
    assert finetune(named)["mask_AP"] is None
    with pytest.raises(UserError, match="--detector.name mask-rcnn: needs objects with a segmentation") as error:
        finetune(settings_for(toy, tmp_path / "no", "mask-rcnn", train=boxes, **scratch))
    assert str(boxes) in str(error.value) and not (tmp_path / "no").exists()


def test_what_was_trained_is_taken_and_no_more(toy, trunks, tmp_path, capsys):
    some = str(trunks / "some.safetensors")
    before = load_file(some)
    summary = finetune(settings_for(toy, tmp_path / "run", trunk=some, freeze="backbone", **{"optim.lr": 1e-9}))
    told = " ".join(capsys.readouterr().out.split())
    assert summary["parts"] == "backbone+p5+head" and 0 < summary["loaded_share"] < 1
    assert "p2, p3, p4: nothing is loaded, so fresh" in told and "backbone+p5+head trained" in told
    after = load_file(tmp_path / "run/detector.safetensors")
    p5, p4 = "backbone.fpn.inner_blocks.3.0.weight", "backbone.fpn.inner_blocks.2.0.weight"
    torch.testing.assert_close(after[p5], before[p5], atol=1e-5, rtol=0)
    assert (after[p4] - before[p4]).abs().max() > 0.01
    alone = finetune(settings_for(toy, tmp_path / "less", trunk=some, parts="backbone"))
    assert alone["parts"] == "backbone" and alone["loaded_share"] < summary["loaded_share"]


@pytest.mark.parametrize(
    "trunk, given, words",
    [
        ("some", {"parts": "backbone+pyramid+head"}, "no trained p2, p3, p4 .trained: backbone.p5.head.*--allow_partial"),
        ("backbone", {"parts": "backbone+pyramid"}, "no trained p2, p3, p4, p5 .trained: backbone.;"),
        ("some", {"freeze": "trunk"}, "--freeze trunk: p2, p3, p4 would start fresh"),
        ("some", {"freeze": "trunk", "parts": "backbone+pyramid+head", "allow_partial": True}, "p2, p3, p4 would start fresh"),
        ("backbone", {"name": "fcos", "detector.towers_from_head": True}, "its head was not trained.*towers_from_head"),
        ("whole", {"name": "fcos", "freeze": "trunk"}, "--freeze trunk: FCOS cannot"),
        ("whole", {"name": "retinanet", "parts": "backbone+pyramid+head"}, "RetinaNet has no box head.*towers_from_head"),
        ("whole", {"name": "retinanet", "parts": "backbone", "detector.towers_from_head": True}, "needs the head.*--parts backbone"),
        ("none", {"name": "retinanet", "detector.towers_from_head": True}, "towers_from_head needs a trunk"),
        ("whole", {"name": "retinanet", "detector.fc_channels": 8}, "unknown setting 'detector.fc_channels'"),
        ("whole", {"name": "fcos", "detector.point_size": 3}, "detector.point_size: must be a multiple of 2"),
        ("whole", {"name": "fcos", "detector.levels": "p3"}, "detector.levels"),
        ("whole", {"name": "rcnn"}, "--detector.name: no detector 'rcnn'.*mask-rcnn, faster-rcnn"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line_and_leaves_no_folder(trunk, given, words, toy, trunks, tmp_path):
    source = trunk if trunk == "none" else str(trunks / f"{trunk}.safetensors")
    given = {"trunk": source, **given}
    with pytest.raises(UserError, match=words) as error:
        finetune(settings_for(toy, tmp_path / "run", given.pop("name", "auto"), **given))
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_more_than_was_trained_can_be_allowed(toy, trunks, tmp_path):
    given = {"trunk": str(trunks / "some.safetensors"), "parts": "backbone+pyramid+head", "allow_partial": True}
    assert finetune(settings_for(toy, tmp_path / "run", **given))["parts"] == "backbone+p5+head"


def test_towers_from_the_head_are_told_and_saved(toy, trunks, tmp_path, capsys):
    given = {"trunk": str(trunks / "some.safetensors"), "detector.towers_from_head": True, "optim.lr": 1e-9}
    summary = finetune(settings_for(toy, tmp_path / "run", "retinanet", **given))
    told = "".join(capsys.readouterr().out.split())
    assert summary["parts"] == "backbone+p5+head"
    assert "roi_heads.box_head.1.0.weight->head.regression_head.conv.1.0.weight" in told
    after = load_file(tmp_path / "run/detector.safetensors")["head.classification_head.conv.0.0.weight"]
    before = load_file(trunks / "some.safetensors")["roi_heads.box_head.0.0.weight"]
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)


def test_a_recipe_for_another_detector_leaves_its_settings_out():
    """finetune-1x is written for R-CNNs: all of them get its sizes, and RetinaNet its own."""
    words = ["--trunk", "none", "--train", "a", "--val", "a", "--images", "a", "--out", "b", "--recipe", "finetune-1x"]
    read = {
        name: from_arguments(FinetuneSettings, [*words, "--detector.name", name], "mcl finetune")
        for name in ("auto", "faster-rcnn", "mask-rcnn", "retinanet")
    }
    assert all(read[name].detector.boxes_per_image == 512 for name in ("auto", "faster-rcnn", "mask-rcnn"))
    assert all(settings.detector.name == name and settings.batch == 16 for name, settings in read.items())


def test_the_name_decides_what_help_shows(capsys):
    shown = {}
    for name in ("auto", "fcos"):
        assert main(["finetune", "--detector.name", name, "--help", "detector"]) == 0
        shown[name] = capsys.readouterr().out
    assert "--detector.centre_radius" in shown["fcos"] and "--detector.roi_size" not in shown["fcos"]
    assert "--detector.roi_size" in shown["auto"] and "--detector.centre_radius" not in shown["auto"]
