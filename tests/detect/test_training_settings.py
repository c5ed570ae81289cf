"""Settings of training: a run that is broken off and resumed equals one that was not, with each of them."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mcl.config.base import from_values
from mcl.config.finetune import FinetuneSettings
from mcl.data.labels.scenes import CocoDetection, Framing
from mcl.detect.averaged import AveragedWeights
from mcl.detect.saved import load_detector
from mcl.engine.run_folder import RunFolder
from mcl.errors import UserError
from mcl.run.finetune import finetune
from tiny import assert_same_state

from .conftest import NAMES, stop_after_two

# Together, for every run costs seconds.
SETTINGS = {
    "classes in turn, rates, jitter": {
        "sampling": "class_balanced", "views.scale_jitter": (0.1, 2.0), "optim.backbone_lr": 0.1, "optim.pyramid_lr": 0.5,
        "optim.heads_lr": 2.0,
    },
    "repeat factors, rates of sgd, copy and paste": {
        "sampling": "repeat_factor", "repeat_threshold": 1.0, "optim.name": "sgd", "optim.lr": 0.01,
        "optim.backbone_lr": 0.1, "views.copy_paste": 0.7,
    },
}  # fmt: skip


def settings_for(toy, out, **given) -> FinetuneSettings:
    values = {
        "trunk": "none", "train": toy / "train.json", "val": toy / "val.json", "images": toy, "out": out, "batch": 4,
        "model.backbone": "test_resnet", "model.pyramid_channels": 16, "model.head_convs": 1, "image_size": 64,
        "precise_bn_images": 8, "schedule.steps": 4, "schedule.warmup_steps": 0, "loop.workers": 0,
        "loop.tensorboard": False, "loop.log_every": 1, "loop.checkpoint_every": 1,
        "detector.name": "mask-rcnn", "detector.fc_channels": 32, "detector.proposals_test": 20,
        "detector.score_threshold": 0.0, "detector.detections_per_image": 10,
    }  # fmt: skip
    return from_values(FinetuneSettings, {**values, **given})


def broken_off_and_resumed(settings: FinetuneSettings) -> dict:
    """Ended in its third step, and continued."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mcl.run.finetune.run_loop", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            finetune(settings)
    return finetune(settings.model_copy(update={"resume": True}))


@pytest.fixture(scope="module")
def plain(toy, tmp_path_factory):
    """A run without any of the settings."""
    out = tmp_path_factory.mktemp("plain") / "run"
    finetune(settings_for(toy, out))
    return out


@pytest.mark.parametrize("name", SETTINGS)
def test_a_resumed_run_equals_a_whole_one(name, toy, plain, tmp_path):
    finetune(settings_for(toy, tmp_path / "whole", **SETTINGS[name]))
    broken_off_and_resumed(settings_for(toy, tmp_path / "parts", **SETTINGS[name]))
    assert_same_state(tmp_path / "whole", tmp_path / "parts")
    with pytest.raises(AssertionError):  # the setting does something
        assert_same_state(tmp_path / "whole", plain)


def test_averaged_weights_are_measured_exported_and_resumed(toy, plain, tmp_path):
    given = {"ema": 0.9, "eval_every": 2, "precise_bn_images": 0}
    whole = finetune(settings_for(toy, tmp_path / "whole", **given))
    parts = broken_off_and_resumed(settings_for(toy, tmp_path / "parts", **given))
    assert_same_state(tmp_path / "whole", tmp_path / "parts")
    assert whole["box_AP"] == parts["box_AP"]
    state = torch.load(tmp_path / "whole/checkpoints/last.pt", weights_only=True)["state"]
    saved, average = load_file(tmp_path / "whole/detector.safetensors"), state["ema"]
    assert all(torch.equal(tensor, average[name]) for name, tensor in saved.items())
    weight = "roi_heads.box_predictor.cls_score.weight"
    assert not torch.equal(average[weight], state["detector"][weight])
    # The trained weights are those of a run without an average, although it was measured on the way.
    last = torch.load(plain / "checkpoints/last.pt", weights_only=True)["state"]["detector"]
    assert all(torch.equal(tensor, last[name]) for name, tensor in state["detector"].items())
    # The curve has the average's numbers: a run of two steps exports what the curve measured at two.
    constant = {**given, "schedule.decay": "constant"}
    finetune(settings_for(toy, tmp_path / "three", **{**constant, "schedule.steps": 3}))
    two = finetune(settings_for(toy, tmp_path / "two", **{**constant, "schedule.steps": 2}))
    (line,) = read_lines(tmp_path / "three/curve.jsonl")
    assert line["class_agnostic_AP"] == two["class_agnostic_AP"] and line["box_AP"] == two["box_AP"]


def test_the_average_follows_its_formula():
    module = torch.nn.BatchNorm1d(2)
    average = AveragedWeights(module, 0.5)
    expected = [0.0, 0.0]
    for step in range(8):
        with torch.no_grad():
            module.bias += torch.tensor([1.0, 2.0])
            module.num_batches_tracked += 1
        average.update(module, step)
        decay = min(0.5, (step + 2) / (step + 11))
        expected = [decay * old + (1 - decay) * (step + 1) * k for k, old in zip((1, 2), expected, strict=True)]
    assert average.values["bias"].tolist() == pytest.approx(expected) and average.values["num_batches_tracked"] == 8
    with average.inside(module):
        assert module.bias.tolist() == pytest.approx(expected)
    assert module.bias.tolist() == [8, 16]


def read_lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def with_numbers(values: dict[int, float]):
    """``coco_numbers`` of a run whose box AP after each step is given (0.5 at the end)."""
    given = iter(values.values())

    def numbers(scenes, results, evaluators=None):
        ap = next(given, 0.5)
        return {"bbox": {"AP": ap, "AP50": ap}, "segm": {"AP": 1 - ap, "AP50": 0}, "class_agnostic_AP": ap}

    return numbers


def run_with(values, toy, out, resume=False, **given):
    settings = settings_for(toy, out, eval_every=1, precise_bn_images=0, **{"schedule.steps": 8, **given})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mcl.run.curve.coco_numbers", with_numbers(values))
        return finetune(settings.model_copy(update={"resume": resume}))


RISE_AND_FALL = {1: 0.1, 2: 0.3, 3: 0.2, 4: 0.3, 5: 0.25, 6: 0.2}


def test_early_stopping_counts_measurements_without_a_rise(toy, tmp_path):
    summary = run_with(RISE_AND_FALL, toy, tmp_path / "run", patience=3)
    assert summary["cost"]["steps"] == 5 and summary["cost"]["images"] == 20
    assert [line["step"] for line in read_lines(tmp_path / "run/curve.jsonl")] == [1, 2, 3, 4, 5]
    assert torch.load(tmp_path / "run/checkpoints/last.pt", weights_only=True)["step"] == 5
    # Resumed, it is over; nothing is trained or measured again.
    again = run_with({}, toy, tmp_path / "run", resume=True, patience=3)
    assert again["cost"]["steps"] == 5 and len(read_lines(tmp_path / "run/curve.jsonl")) == 5
    # With more patience the same measurements end nothing.
    assert run_with(RISE_AND_FALL, toy, tmp_path / "patient", patience=7)["cost"]["steps"] == 8


def test_a_stopped_run_ends_with_the_weights_of_its_last_step(toy, tmp_path):
    constant = {"schedule.decay": "constant"}
    run_with(RISE_AND_FALL, toy, tmp_path / "stopped", patience=3, **constant)
    finetune(settings_for(toy, tmp_path / "five", precise_bn_images=0, **{**constant, "schedule.steps": 5}))
    stopped, five = (load_file(tmp_path / run / "detector.safetensors") for run in ("stopped", "five"))
    assert all(torch.equal(tensor, five[name]) for name, tensor in stopped.items())


@pytest.mark.parametrize(("best_by", "step"), [("box_AP", 2), ("mask_AP", 1)])
def test_the_best_detector_is_kept(best_by, step, toy, tmp_path):
    values = {1: 0.7, 2: 0.9, 3: 0.8}
    given = {"best_by": best_by, "schedule.steps": 4, "schedule.decay": "constant"}
    summary = run_with(values, toy, tmp_path / "run", **given)
    finetune(settings_for(toy, tmp_path / "short", precise_bn_images=0, **{**given, "schedule.steps": step}))
    best, short = load_file(tmp_path / "run/detector.best.safetensors"), load_file(tmp_path / "short/detector.safetensors")
    # (The end is measured for real, and worse.)
    assert summary["best"] == {"step": step, best_by: values[step] if best_by == "box_AP" else 1 - values[step]}
    assert all(torch.equal(tensor, best[name]) for name, tensor in short.items())
    detector, _ = load_detector(tmp_path / "run/detector.best.safetensors")
    assert detector.finds == ("bbox", "segm")


def test_measurements_of_an_attempt_without_a_checkpoint_do_not_count(toy, tmp_path):
    """The next one begins anew: with those of before, an AP of 0.9 would stay the best."""
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/config.yaml").write_text("trunk: none\n")
    (tmp_path / "run/.lock").touch()
    (tmp_path / "run/curve.jsonl").write_text('{"step": 1, "box_AP": 0.9, "mask_AP": 0.9, "class_agnostic_AP": 0.9}\n')
    (tmp_path / "run/detector.best.safetensors").write_text("stale")
    folder = RunFolder.open(tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.name != ".lock") == ["checkpoints", "config.yaml"]
    assert folder.has_nothing_done


def test_ap_stands_in_metrics_and_tensorboard(toy, tmp_path):
    finetune(settings_for(toy, tmp_path / "run", eval_every=2, **{"loop.tensorboard": True}))
    (curve,) = read_lines(tmp_path / "run/curve.jsonl")
    rows = [row for row in read_lines(tmp_path / "run/metrics.jsonl") if "AP/box" in row]
    expected = {"AP/box": curve["box_AP"], "AP/mask": curve["mask_AP"], "AP/class_agnostic": curve["class_agnostic_AP"]}
    assert rows == [{"step": 2, **expected}]
    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    (point,) = events.Scalars("AP/box")
    assert point.step == 2 and point.value == pytest.approx(curve["box_AP"])


def test_rates_of_parts_reach_their_parameters(toy, plain, tmp_path):
    """A rate near zero leaves a part as it began, and the others move."""
    given = {"optim.weight_decay": 0.0, "schedule.steps": 1, "precise_bn_images": 0}
    finetune(settings_for(toy, tmp_path / "slow", **given, **{"optim.backbone_lr": 1e-9}))
    finetune(settings_for(toy, tmp_path / "none", **given, **{"optim.lr": 1e-12}))
    slow, start = (load_file(tmp_path / run / "detector.safetensors") for run in ("slow", "none"))
    moved = {name: not torch.allclose(slow[name], tensor, rtol=0, atol=1e-7) for name, tensor in start.items() if name.endswith("weight")}
    assert not any(m for name, m in moved.items() if name.startswith("backbone.body."))
    assert moved["backbone.fpn.layer_blocks.0.0.weight"] and moved["roi_heads.box_predictor.cls_score.weight"]
    state = torch.load(plain / "checkpoints/last.pt", weights_only=True)["state"]["optimizer"]
    assert len(state["param_groups"]) == 2  # without the settings groups are as they always were


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"patience": 3}, "--patience counts measurements on the way: give --eval_every"),
        ({"eval_every": 2, "best_by": "mask_AP", "detector.name": "faster-rcnn"}, "the detector draws none; give --best_by box_AP"),
        ({"views.copy_paste": 0.5, "train": "boxes"}, "has a segmentation to be cut out by"),
        ({"views.copy_paste": 0.5, "freeze": "trunk", "trunk": "x"}, "of views only flip is possible"),
        ({"views.copy_paste": 1.5}, "views.copy_paste"),
        ({"ema": 1.0}, "ema"),
        ({"sampling": "repeat"}, "sampling"),
    ],
)
def test_a_mistake_is_one_line(given, words, toy, tmp_path):
    if given.get("train") == "boxes":
        content = json.loads((toy / "train.json").read_text())
        for annotation in content["annotations"]:
            del annotation["segmentation"]
        (tmp_path / "boxes.json").write_text(json.dumps(content))
        given = {**given, "train": tmp_path / "boxes.json", "detector.name": "faster-rcnn"}
    with pytest.raises(UserError, match=words) as error:
        finetune(settings_for(toy, tmp_path / "run", **given))
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_a_repeated_scene_is_augmented_anew(scenes):
    dataset = CocoDetection(scenes, NAMES, Framing(64, scale_jitter=(0.5, 1.5)), masks=False)
    once, again, third = (dataset[key][0] for key in ((0, 3), (0, 3, 1), (0, 3, 2)))
    assert torch.equal(once, dataset[0, 3][0]) and torch.equal(again, dataset[0, 3, 1][0])
    assert not torch.equal(once, again) and not torch.equal(again, third)
