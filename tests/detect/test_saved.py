"""A saved detector comes back, also one that an older version wrote; what is none is refused in one line."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mcl.detect.base import DetectorPlan
from mcl.detect.registry import DETECTORS, build_detector, names, settings_of
from mcl.detect.saved import load_detector, save_detector
from mcl.errors import UserError

from .conftest import NAMES, QUICK, SPEC


def plan_for(name: str) -> DetectorPlan:
    return DetectorPlan(SPEC, tuple(NAMES), settings_of(name)(**QUICK[name]), 64)


def rewrite(path, change) -> None:
    """Let ``change`` edit the metadata of a file in place."""
    with safe_open(path, "pt") as opened:
        metadata = {key: json.loads(value) for key, value in opened.metadata().items()}
        state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
    change(metadata)
    save_file(state, path, {key: json.dumps(value) for key, value in metadata.items()})


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_comes_back(name, tmp_path):
    plan = plan_for(name)
    detector, path = build_detector(plan), tmp_path / "detector.safetensors"
    save_detector(path, detector, plan, {"trunk": "none"})
    again, read = load_detector(path)
    assert read == plan and type(again) is type(detector) and not again.training
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in detector.state_dict().items())
    assert load_detector(path, score_threshold=0.25)[1].settings.score_threshold == 0.25


@pytest.mark.parametrize("name", ["mask-rcnn", "faster-rcnn"])
def test_files_of_the_version_before_are_read(name, tmp_path):
    """They had no name, one class of settings for both R-CNNs, and said whether there is a mask head."""
    path, plan = tmp_path / "detector.safetensors", plan_for(name)
    save_detector(path, build_detector(plan), plan, {"trunk": "none", "parts": "backbone+pyramid+head"})

    def to_version_1(metadata):
        metadata["format_version"] = 1
        metadata["plan"]["masks"] = name == "mask-rcnn"
        del metadata["plan"]["settings"]["name"]
        metadata["plan"]["settings"]["mask_roi_size"] = None

    rewrite(path, to_version_1)
    detector, read = load_detector(tmp_path)
    assert read == plan and detector.finds == (("bbox", "segm") if name == "mask-rcnn" else ("bbox",))


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda m: m["plan"]["settings"].update(name="retinet"), "no detector 'retinet' .did you mean 'retinanet'"),
        (lambda m: m["plan"]["settings"].update(name="auto"), "no detector 'auto'"),
        (lambda m: m["plan"]["settings"].update(towers=1), "towers"),
        (lambda m: m["plan"].pop("settings"), "settings"),
        (lambda m: m.update(format_version=3), "format 3, this mcl reads up to 2"),
    ],
)
def test_a_plan_that_is_none_is_one_line(change, words, tmp_path):
    path, plan = tmp_path / "detector.safetensors", plan_for("fcos")
    save_detector(path, build_detector(plan), plan, {})
    rewrite(path, change)
    with pytest.raises(UserError, match=words) as error:
        load_detector(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_the_names_in_help_are_those_of_the_registry():
    from mcl.config.detector import NAME

    listed = NAME.partition(";")[0].replace(" or ", ", ").split(", ")
    assert tuple(listed) == names() == ("auto", *DETECTORS)
    for name in names():
        assert settings_of(name)().name == name and settings_of(name).title
