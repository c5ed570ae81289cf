"""Settings of training: a run that is broken off and resumed equals one that was not, with each of them."""

import pytest
import torch

from mcl.config.base import from_values
from mcl.config.finetune import FinetuneSettings
from mcl.data.labels.scenes import CocoDetection, Framing
from mcl.run.finetune import finetune
from tiny import assert_same_state

from .conftest import NAMES, stop_after_two

SETTINGS = {
    "class_balanced": {"sampling": "class_balanced"},
    "repeat_factor": {"sampling": "repeat_factor", "repeat_threshold": 1.0},
}


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


def test_a_repeated_scene_is_augmented_anew(scenes):
    dataset = CocoDetection(scenes, NAMES, Framing(64, scale_jitter=(0.5, 1.5)), masks=False)
    once, again, third = (dataset[key][0] for key in ((0, 3), (0, 3, 1), (0, 3, 2)))
    assert torch.equal(once, dataset[0, 3][0]) and torch.equal(again, dataset[0, 3, 1][0])
    assert not torch.equal(once, again) and not torch.equal(again, third)
